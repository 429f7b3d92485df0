"""Frames and masks: the published preprocessing, exactly, and paired random transforms.

Frames are (n, H, W, 3) uint8 and resized bilinearly by Pillow, as the authors' torchvision on PIL images does (its
filter is antialiased when it shrinks); masks are (m, H, W) uint8 class indices and take the nearest pixel. One clip's
frames and masks always get the same geometry.

VCT trains on `square` (AVSS only), then `random_scale_crop`, `random_colours`, `random_flip` and `pad`, in this order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from data_pipeline import colour
from data_pipeline.batch import IGNORE

Size = tuple[int, int]
Pair = tuple[np.ndarray, np.ndarray]
Box = tuple[float, float, float, float]

LONGEST = 7 / 3  # of a scaled clip's longer side, in sides of the image: 896 for 384, as published
PADDING = 128  # of frames; that of masks is IGNORE


def resize(images: np.ndarray, size: Size, nearest: bool = False, box: Box | None = None) -> np.ndarray:
    """Resizes (n, H, W[, 3]) uint8 images, or their part `box` = (left, top, right, bottom), to `size` = (h, w)."""
    height, width = size
    if images.shape[1:3] == (height, width) and box is None:
        return images
    out = np.empty((len(images), height, width, *images.shape[3:]), np.uint8)
    resample = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    for i, image in enumerate(images):
        out[i] = Image.fromarray(image).resize((width, height), resample, box=box)
    return out


def squash(frames: np.ndarray, masks: np.ndarray, size: Size) -> Pair:
    """Both sides to `size`, proportions not kept: S4 and MS3 always, AVSS in evaluation."""
    return resize(frames, size), resize(masks, size, nearest=True)


def square(frames: np.ndarray, masks: np.ndarray) -> Pair:
    """Both sides to the shorter one, proportions not kept: what VCT does first with AVSS in training."""
    side = min(frames.shape[1:3])
    return squash(frames, masks, (side, side))


def centre_crop(frames: np.ndarray, masks: np.ndarray, size: Size) -> Pair:
    """Scales until the frame just covers `size`, then crops its centre: AVSS in training.

    The side that limits the scale becomes exact, the other int(1.0 * long * target / short); the crop starts at
    round((side - target) / 2), halves to even, as in the authors' `crop_resize_img`.
    """
    height, width = frames.shape[1:3]
    if height * size[1] >= width * size[0]:  # the width limits
        scaled = (int(1.0 * height * size[1] / width), size[1])
    else:
        scaled = (size[0], int(1.0 * width * size[0] / height))
    top, left = round((scaled[0] - size[0]) / 2), round((scaled[1] - size[1]) / 2)
    window = (slice(None), slice(top, top + size[0]), slice(left, left + size[1]))
    return resize(frames, scaled)[window], resize(masks, scaled, nearest=True)[window]


PREPROCESS = {"squash": squash, "centre_crop": centre_crop}


def published_preprocess(task: str, training: bool) -> str:
    """The name of the published preprocessing of a task."""
    return "centre_crop" if task == "avss" and training else "squash"


def random_crop(frames: np.ndarray, masks: np.ndarray, size: Size, min_crop: float, rng: np.random.Generator) -> Pair:
    """A random box with the proportions of `size`, at least `min_crop` of the largest such box, resized to `size`."""
    height, width = frames.shape[1:3]
    scale = rng.uniform(min_crop, 1.0) * min(height / size[0], width / size[1])
    box_height, box_width = scale * size[0], scale * size[1]
    top, left = rng.uniform(0.0, height - box_height), rng.uniform(0.0, width - box_width)
    box = (left, top, left + box_width, top + box_height)
    return resize(frames, size, box=box), resize(masks, size, nearest=True, box=box)


def random_scale_crop(
    frames: np.ndarray, masks: np.ndarray, size: Size, scales: Sequence[float], rng: np.random.Generator
) -> Pair:
    """Resizes the shorter side to one of `scales` times that of `size`, then cuts out at most `size`, anywhere.

    The result is smaller than `size` where the scaled clip is. Proportions are kept, and a clip whose longer side would
    be more than `LONGEST` times the shorter side of `size` becomes just that (detectron2's `ResizeShortestEdge` and
    absolute `RandomCrop`).
    """
    side = min(size)
    edge = int(side * scales[rng.integers(len(scales))])
    scaled = scaled_size(frames.shape[1:3], edge, int(side * LONGEST + 1e-6))
    crop = min(size[0], scaled[0]), min(size[1], scaled[1])
    top, left = rng.integers(scaled[0] - crop[0] + 1), rng.integers(scaled[1] - crop[1] + 1)
    window = (slice(None), slice(top, top + crop[0]), slice(left, left + crop[1]))
    return resize(frames, scaled)[window], resize(masks, scaled, nearest=True)[window]


def scaled_size(size: Size, edge: int, longest: int) -> Size:
    """`size` with a shorter side of `edge`, but no side longer than `longest`; rounded, halves up."""
    scale = edge / min(size)
    scale *= min(1.0, longest / (max(size) * scale))
    return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)


def random_colours(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Distorts the colours of every frame by itself, as VCT does."""
    return np.stack([colour.distort(frame, colour.draw(rng)) for frame in frames])


def pad(frames: np.ndarray, masks: np.ndarray, size: Size) -> Pair:
    """Fills up to `size` on the right and below: frames with grey, masks with IGNORE."""
    height, width = frames.shape[1:3]
    rows, columns = (0, size[0] - height), (0, size[1] - width)
    if rows[1] == columns[1] == 0:
        return frames, masks
    return (
        np.pad(frames, ((0, 0), rows, columns, (0, 0)), constant_values=PADDING),
        np.pad(masks, ((0, 0), rows, columns), constant_values=IGNORE),
    )


def random_flip(frames: np.ndarray, masks: np.ndarray, rng: np.random.Generator) -> Pair:
    """Mirrors the whole clip, left for right, with probability 1/2."""
    if rng.random() < 0.5:
        return frames[:, :, ::-1], masks[:, :, ::-1]
    return frames, masks
