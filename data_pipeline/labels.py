"""Class names, and the colours that stand for classes in AVSBench-semantic's masks.

The palette and the look-up are those of the released AVSegFormer loader; the class names come with the data set.
"""

from __future__ import annotations

import functools

import numpy as np

AVSS_CLASSES = (
    "background", "accordion", "airplane", "axe", "baby", "bassoon", "bell", "bird", "boat", "boy", "bus", "car",
    "cat", "cello", "clarinet", "clipper", "clock", "dog", "donkey", "drum", "duck", "elephant", "emergency-car",
    "erhu", "flute", "frying-food", "girl", "goose", "guitar", "gun", "guzheng", "hair-dryer", "handpan", "harmonica",
    "harp", "helicopter", "hen", "horse", "keyboard", "leopard", "lion", "man", "marimba", "missile-rocket",
    "motorcycle", "mower", "parrot", "piano", "pig", "pipa", "saw", "saxophone", "sheep", "sitar", "sorna", "squirrel",
    "tabla", "tank", "tiger", "tractor", "train", "trombone", "truck", "trumpet", "tuba", "ukulele", "utv",
    "vacuum-cleaner", "violin", "wolf", "woman",
)  # fmt: skip

S4_CATEGORIES = (
    "baby_laughter", "female_singing", "male_speech", "dog_barking", "cat_meowing", "lions_roaring",
    "horse_clip-clop", "coyote_howling", "mynah_bird_singing", "playing_acoustic_guitar", "playing_tabla",
    "playing_violin", "playing_piano", "playing_ukulele", "playing_glockenspiel", "helicopter", "race_car",
    "driving_buses", "ambulance_siren", "typing_on_computer_keyboard", "chainsawing_trees", "cap_gun_shooting",
    "lawn_mowing",
)  # fmt: skip

_UNKNOWN = 255  # in the look-up table: no class has this colour


class UnknownColours(ValueError):
    """A mask with colours that no class has; `colours` are up to ten of them, as (red, green, blue)."""

    def __init__(self, colours: list[tuple[int, int, int]]):
        super().__init__(colours)
        self.colours = colours

    def __str__(self) -> str:
        return f"colours that no class has: {', '.join(map(str, self.colours))}"


@functools.cache
def palette() -> np.ndarray:
    """Colour of each class: (71, 3) uint8, red, green, blue, by index.

    Counting the index's bits from the lowest, bits 0, 1, 2 are the highest bits of red, green and blue, bits 3, 4, 5
    the next ones, and so on, as in PASCAL VOC.
    """
    indices = np.arange(len(AVSS_CLASSES))
    colours = np.zeros((len(AVSS_CLASSES), 3), np.uint8)
    for bit in range(8):
        colours[:, bit % 3] |= ((indices >> bit & 1) << (7 - bit // 3)).astype(np.uint8)
    colours.setflags(write=False)
    return colours


@functools.cache
def _class_of_colour() -> np.ndarray:
    """Class index of every 24-bit colour: (2^24,) uint8, 255 where no class has the colour."""
    table = np.full(1 << 24, _UNKNOWN, np.uint8)
    table[_colour_codes(palette())] = np.arange(len(AVSS_CLASSES))
    return table


def _colour_codes(colours: np.ndarray) -> np.ndarray:
    """(..., 3) uint8 -> (...) int32: red, green, blue as one number of 24 bits."""
    red, green, blue = (colours[..., channel].astype(np.int32) for channel in range(3))
    return red << 16 | green << 8 | blue


def colours_to_indices(rgb: np.ndarray, strict: bool = False) -> np.ndarray:
    """Class index of every pixel of a colour mask: (H, W, 3) uint8 -> (H, W) uint8.

    A colour that no class has becomes 0, background, as in the released code.

    Raises: UnknownColours if `strict` and there is such a colour; ValueError for an array that is not (..., 3) uint8.
    """
    if rgb.dtype != np.uint8 or rgb.shape[-1:] != (3,):
        raise ValueError(f"a colour mask is (H, W, 3) uint8, not {rgb.shape} {rgb.dtype}")
    indices = _class_of_colour()[_colour_codes(rgb)]
    unknown = indices == _UNKNOWN
    if unknown.any():
        if strict:
            colours = np.unique(rgb[unknown], axis=0)[:10]
            raise UnknownColours([tuple(map(int, colour)) for colour in colours])
        indices[unknown] = 0
    return indices


def indices_to_colours(indices: np.ndarray) -> np.ndarray:
    """Colour mask of class indices below 71: (H, W) integers -> (H, W, 3) uint8. Inverse of `colours_to_indices`."""
    return palette()[indices]
