"""Random colours for training: the distortions of SSD (Liu et al., ECCV 2016), as detectron2 and so VCT apply them.

Images are (H, W, 3) uint8 RGB and are rounded to uint8 between the steps, as published. Hue, saturation and value are
OpenCV's of 8 bits: hue in half degrees, 0 to 179, the others 0 to 255.
"""

from __future__ import annotations

import dataclasses

import numpy as np

_BRIGHTNESS, _LOW, _HIGH, _HUE = 32.0, 0.5, 1.5, 18
_SHIFT = 12  # bits after the point of OpenCV's reciprocals
_ONE = np.maximum(np.arange(256), 1)
# round(255 / v), and round(180 / (6 d)), with 12 bits after the point; 0 for 0.
_SATURATION = np.where(np.arange(256) > 0, np.rint((255 << _SHIFT) / _ONE), 0).astype(np.int32)
_HUES = np.where(np.arange(256) > 0, np.rint((180 << _SHIFT) / (6.0 * _ONE)), 0).astype(np.int32)


def _share_of_saturation() -> np.ndarray:
    """(256, 3) float32: by hue, the c of red, green and blue in v (1 - s c)."""
    sixths = np.arange(256, dtype=np.float32) * np.float32(6 / 180)
    part = sixths - np.floor(sixths)
    zero, one = np.zeros_like(part), np.ones_like(part)
    shares = np.stack([zero, one, part, 1 - part])
    which = np.array([(0, 3, 1), (2, 0, 1), (1, 0, 3), (1, 2, 0), (3, 1, 0), (0, 1, 2)])  # in each sixth of the circle
    chosen = which[np.floor(sixths).astype(np.intp) % 6]
    return np.take_along_axis(shares.T, chosen, axis=1)


_SHARES = _share_of_saturation()


@dataclasses.dataclass(frozen=True)
class Colours:
    """What is done to the colours of one image; None leaves that step out."""

    brightness: float | None = None  # added to all values, within 32 of 0
    contrast: float | None = None  # factor of all values, 0.5 to 1.5
    saturation: float | None = None  # factor, 0.5 to 1.5
    hue: int | None = None  # half degrees, -18 to 18
    contrast_first: bool = True  # before saturation and hue, or after them


def draw(rng: np.random.Generator) -> Colours:
    """Each step with probability 1/2, uniform in its range; contrast before or after the others, as often."""

    def chance() -> bool:
        return rng.random() < 0.5

    return Colours(
        brightness=rng.uniform(-_BRIGHTNESS, _BRIGHTNESS) if chance() else None,
        contrast=rng.uniform(_LOW, _HIGH) if chance() else None,
        saturation=rng.uniform(_LOW, _HIGH) if chance() else None,
        hue=int(rng.integers(-_HUE, _HUE + 1)) if chance() else None,
        contrast_first=chance(),
    )


def distort(image: np.ndarray, colours: Colours) -> np.ndarray:
    """The image with other colours: brightness first, saturation before hue, contrast before or after both."""
    if colours.brightness is not None:
        image = _scaled(image, 1.0, colours.brightness)
    if colours.contrast is not None and colours.contrast_first:
        image = _scaled(image, colours.contrast)
    if colours.saturation is not None:
        hsv = rgb_to_hsv(image)
        hsv[..., 1] = _scaled(hsv[..., 1], colours.saturation)
        image = hsv_to_rgb(hsv)
    if colours.hue is not None:
        hsv = rgb_to_hsv(image)
        hsv[..., 0] = (hsv[..., 0].astype(np.int32) + colours.hue) % 180
        image = hsv_to_rgb(hsv)
    if colours.contrast is not None and not colours.contrast_first:
        image = _scaled(image, colours.contrast)
    return image


def rgb_to_hsv(image: np.ndarray) -> np.ndarray:
    """OpenCV's conversion of 8 bits, in integers."""
    red, green, blue = np.moveaxis(image.astype(np.int32), -1, 0)
    value = np.maximum(np.maximum(red, green), blue)
    spread = value - np.minimum(np.minimum(red, green), blue)
    half = 1 << (_SHIFT - 1)
    saturation = (spread * _SATURATION[value] + half) >> _SHIFT
    sixths = np.where(
        value == red,
        green - blue,
        np.where(value == green, blue - red + 2 * spread, red - green + 4 * spread),
    )
    hue = (sixths * _HUES[spread] + half) >> _SHIFT
    return np.stack([hue + 180 * (hue < 0), saturation, value], -1).astype(np.uint8)


def hsv_to_rgb(image: np.ndarray) -> np.ndarray:
    """OpenCV's conversion of 8 bits, which cuts off what is behind the point; one colour in 6,700 differs, by 1."""
    saturation, value = (image[..., i, None] * np.float32(1 / 255) for i in (1, 2))
    return (value * (1 - saturation * _SHARES[image[..., 0]]) * np.float32(255)).astype(np.uint8)


def _scaled(values: np.ndarray, factor: float, offset: float = 0.0) -> np.ndarray:
    return np.clip(values.astype(np.float32) * np.float32(factor) + np.float32(offset), 0, 255).astype(np.uint8)
