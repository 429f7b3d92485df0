"""Pictures of clips: what was seen, what sounds, what the model says, and the sound itself below."""

from __future__ import annotations

import math
import os
import pathlib
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_pipeline import labels
from data_pipeline.batch import IGNORE

SOUNDING = (255, 64, 48)
GREY = (128, 128, 128)
# Black, violet, red, yellow, white: brighter is louder, and no hue is needed to tell.
LOUDNESS = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float64)
# Logarithms of mel magnitudes: silence, log(0.01), up to what loud speech or music reaches.
QUIETEST, LOUDEST = math.log(0.01), 2.0

_GAP, _LABELS, _TEXT = 4, 76, 16  # pixels: between tiles, for the names of rows, for a line of text


def class_colours(num_classes: int) -> np.ndarray:
    """The colour of each class index, (classes, 3) uint8, background first: AVSS's palette, or red for one class."""
    if num_classes == 1:
        return np.array([(0, 0, 0), SOUNDING], np.uint8)
    return labels.palette()[:num_classes]


def overlay(frame: np.ndarray, mask: np.ndarray, colours: np.ndarray, opacity: float = 0.5) -> np.ndarray:
    """Paints a mask over a frame: see-through, with an opaque outline; background stays, ignored pixels are grey.

    Args:
      frame: (H,W,3) uint8.
      mask: (H,W) class indices, 0 background, 255 ignored.
      colours: (classes, 3) uint8, by index.
      opacity: of what is painted inside the outline, from 0 to 1.

    Returns:
      (H,W,3) uint8.

    Raises:
      ValueError: frame and mask are of different sizes, or a class has no colour.
    """
    if frame.shape[:2] != mask.shape:
        raise ValueError(f"a mask of {mask.shape} pixels cannot be laid over a frame of {frame.shape[:2]}")
    indices = np.where(mask == IGNORE, len(colours), mask).astype(np.int64)
    if indices.max(initial=0) > len(colours):
        raise ValueError(f"the mask has class {int(indices.max())}, there are colours for {len(colours)}")
    paint = np.concatenate([colours, [GREY]])[indices].astype(np.float64)
    alpha = np.where(indices == 0, 0.0, np.where(outline(indices), 1.0, opacity))[..., None]
    return np.rint(frame * (1 - alpha) + paint * alpha).astype(np.uint8)


def spectrogram(log_mel: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A clip's sound as a picture: time to the right, pitch upwards, the louder the brighter, on a fixed scale.

    Args:
      log_mel: (T,96,64): T patches of 96 instants and 64 mel bands, the lowest first.
      size: height and width of the picture.

    Returns:
      (*size, 3) uint8.
    """
    loudness = log_mel.reshape(-1, log_mel.shape[-1]).T[::-1]
    level = np.clip((loudness - QUIETEST) / (LOUDEST - QUIETEST), 0, 1)
    stops = np.linspace(0, 1, len(LOUDNESS))
    rgb = np.stack([np.interp(level, stops, channel) for channel in LOUDNESS.T], -1)
    return resize(np.rint(rgb).astype(np.uint8), size, Image.Resampling.BILINEAR)


def panel(
    frames: np.ndarray,
    truth: np.ndarray,
    prediction: np.ndarray,
    log_mel: np.ndarray | None = None,
    *,
    num_classes: int = 1,
    annotated: Sequence[bool] | None = None,
    title: str = "",
    tile_width: int = 160,
) -> np.ndarray:
    """One picture of a clip: a column a frame; rows of frames, truth, prediction; below, the sound of each frame.

    Args:
      frames: (T,H,W,3) uint8.
      truth, prediction: (T,H,W) class indices.
      log_mel: (T,96,64), or None to leave the sound out.
      num_classes: chooses the colours; for AVSS the classes that occur are named above.
      annotated: (T,) bool; the truth of other frames is left blank. All are annotated if None.
      title: a line of text above.
      tile_width: pixels of a frame in the picture.

    Returns:
      (height, width, 3) uint8.
    """
    count, height, width = frames.shape[:3]
    colours = class_colours(num_classes)
    annotated = np.ones(count, bool) if annotated is None else np.asarray(annotated, bool)
    tile = (max(1, round(tile_width * height / width)), tile_width)
    blank = np.full((*tile, 3), 235, np.uint8)

    def paint(masks: np.ndarray) -> list[np.ndarray]:
        return [resize(overlay(frame, mask, colours), tile) for frame, mask in zip(frames, masks, strict=True)]

    rows = {
        "frame": [resize(frame, tile) for frame in frames],
        "truth": [image if real else blank for image, real in zip(paint(truth), annotated, strict=True)],
        "prediction": paint(prediction),
    }
    if log_mel is not None:
        rows["sound"] = [spectrogram(patch[None], (tile_width // 2, tile_width)) for patch in log_mel]
    names = _names(truth[annotated], prediction, num_classes)
    return _compose(rows, title, [(name, tuple(colours[index].tolist())) for index, name in names])


def save(path: str | os.PathLike, image: np.ndarray) -> None:
    """Writes a picture (H,W,3) uint8 in the format of the path's ending, into a folder that need not exist yet."""
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    # Run lengths: a quarter of the usual time for about the same size, and every evaluation draws pictures.
    Image.fromarray(image).save(path, compress_level=1, compress_type=zlib.Z_RLE)


def _compose(rows: dict[str, list[np.ndarray]], title: str, legend: list[tuple[str, tuple]]) -> np.ndarray:
    """Sets rows of tiles under a title and a legend of coloured names."""
    head = _TEXT * (bool(title) + bool(legend))
    heights = [tiles[0].shape[0] for tiles in rows.values()]
    columns, tile_width = len(next(iter(rows.values()))), next(iter(rows.values()))[0].shape[1]
    size = (_LABELS + columns * (tile_width + _GAP), head + sum(heights) + _GAP * (len(rows) + 1))
    canvas = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    draw.text((_GAP, 1), title, fill="black", font=font)
    x = _LABELS
    for name, colour in legend:
        draw.rectangle((x, head - _TEXT + 3, x + 9, head - _TEXT + 12), fill=colour)
        draw.text((x + 13, head - _TEXT + 1), name, fill="black", font=font)
        x += 25 + int(draw.textlength(name, font=font))
    y = head + _GAP
    for (name, tiles), height in zip(rows.items(), heights, strict=True):
        draw.text((_GAP, y + height // 2 - 7), name, fill="black", font=font)
        for column, tile in enumerate(tiles):
            canvas.paste(Image.fromarray(tile), (_LABELS + column * (tile_width + _GAP), y))
        y += height + _GAP
    return np.asarray(canvas)


def _names(truth: np.ndarray, prediction: np.ndarray, num_classes: int) -> list[tuple[int, str]]:
    """Index and name of the classes that occur, but for the background; none where there is one class."""
    if num_classes == 1:
        return []
    present = np.union1d(truth, prediction)
    return [(int(i), labels.AVSS_CLASSES[i]) for i in present if 0 < i < num_classes]


def outline(indices: np.ndarray) -> np.ndarray:
    """(H,W) bool: pixels of which a neighbour above, below, left or right is of another class."""
    padded = np.pad(indices, 1, mode="edge")
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    return np.any([neighbour != indices for neighbour in neighbours], axis=0)


def resize(image: np.ndarray, size: tuple[int, int], method: Image.Resampling = Image.Resampling.BICUBIC) -> np.ndarray:
    """A picture (H,W[,3]), of a type that Pillow has, at another size: height and width."""
    height, width = size
    return np.asarray(Image.fromarray(image).resize((width, height), method))
