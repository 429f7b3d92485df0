"""Geometry of frames and masks: the published preprocessing, exactly, and paired random transforms.

Frames are (n, H, W, 3) uint8 and resized bilinearly by Pillow, as the authors' torchvision on PIL images does (its
filter is antialiased when it shrinks); masks are (m, H, W) uint8 class indices and take the nearest pixel. One clip's
frames and masks always get the same transform.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

Size = tuple[int, int]
Pair = tuple[np.ndarray, np.ndarray]
Box = tuple[float, float, float, float]


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


def random_flip(frames: np.ndarray, masks: np.ndarray, rng: np.random.Generator) -> Pair:
    """Mirrors the whole clip, left for right, with probability 1/2."""
    if rng.random() < 0.5:
        return frames[:, :, ::-1], masks[:, :, ::-1]
    return frames, masks
