"""The batch: what every loader delivers and every model, loss and metric relies on.

A batch is a flat dict of arrays for B clips of T frames of H x W pixels:

    frames           (B, T, H, W, 3) uint8    RGB; normalised on the device
    log_mel          (B, T, 96, 64) float32   one VGGish patch a frame
    audio_embedding  (B, T, 128) float32      VGGish's output, precomputed: in place of log_mel
    masks            (B, T, H, W) uint8       class index; binary tasks 0 and 1; 255 = ignore
    frame_valid      (B, T) bool              a real frame, not padding
    mask_valid       (B, T) bool              an annotated frame
    clip_valid       (B,) bool                a real clip, not the padding of a last batch
    category         (B,) int32               S4: the number of the clip's category, else -1
    clip_index       (B,) int32               the clip's place in its split, -1 for padding
    pre_masks        (B, T, H, W, 3) uint8    pre-segmented images, RGB; only where they are asked for
    frame_index      (B,) int32               packed batches (T = 1): the frame's place in its clip
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

IGNORE = 255
"""The mask value of pixels that take part in neither loss nor metric."""


class BatchError(ValueError):
    """A batch that does not keep the contract."""


@dataclasses.dataclass(frozen=True)
class Field:
    """One entry of a batch: its axes by name or size, its type, and whether a batch may lack it."""

    axes: tuple[str | int, ...]
    dtype: np.dtype
    required: bool = True


FIELDS = {
    "frames": Field(("B", "T", "H", "W", 3), np.dtype(np.uint8)),
    "log_mel": Field(("B", "T", 96, 64), np.dtype(np.float32), required=False),
    "audio_embedding": Field(("B", "T", 128), np.dtype(np.float32), required=False),
    "masks": Field(("B", "T", "H", "W"), np.dtype(np.uint8)),
    "frame_valid": Field(("B", "T"), np.dtype(bool)),
    "mask_valid": Field(("B", "T"), np.dtype(bool)),
    "clip_valid": Field(("B",), np.dtype(bool)),
    "category": Field(("B",), np.dtype(np.int32)),
    "clip_index": Field(("B",), np.dtype(np.int32)),
    "pre_masks": Field(("B", "T", "H", "W", 3), np.dtype(np.uint8), required=False),
    "frame_index": Field(("B",), np.dtype(np.int32), required=False),
}


def check_batch(batch: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Checks a batch against the contract.

    Returns:
      The sizes of the axes: {"B": ..., "T": ..., "H": ..., "W": ...}.

    Raises:
      BatchError: listing every entry that is missing, unknown, or of a wrong type or shape.
    """
    sizes: dict[str, int] = {}
    wrong = [f"{name} is missing" for name, field in FIELDS.items() if field.required and name not in batch]
    if ("log_mel" in batch) == ("audio_embedding" in batch):
        wrong.append("exactly one of log_mel and audio_embedding is needed")
    for name, array in batch.items():
        wrong += _check_entry(name, array, sizes) if name in FIELDS else [f"{name} is not an entry of a batch"]
    if wrong:
        raise BatchError("not a batch: " + "; ".join(wrong))
    return sizes


def _check_entry(name: str, array: np.ndarray, sizes: dict[str, int]) -> list[str]:
    field = FIELDS[name]
    if array.dtype != field.dtype:
        return [f"{name} is {array.dtype}, not {field.dtype}"]
    expected = tuple(sizes.get(axis, axis) for axis in field.axes)
    agrees = len(array.shape) == len(expected) and all(
        isinstance(want, str) or want == have for want, have in zip(expected, array.shape, strict=True)
    )
    if not agrees:
        return [f"{name} has shape {tuple(array.shape)}, not ({', '.join(map(str, expected))})"]
    sizes.update({axis: size for axis, size in zip(field.axes, array.shape, strict=True) if isinstance(axis, str)})
    return []


def example_batch(
    batch_size: int,
    num_frames: int,
    image_size: tuple[int, int],
    num_classes: int = 1,
    seed: int | None = None,
    pre_masks: bool = False,
) -> dict[str, np.ndarray]:
    """A batch that keeps the contract: random where a seed is given, else zeros (for compilation).

    Args:
      batch_size: B.
      num_frames: T.
      image_size: (H, W).
      num_classes: 1 gives binary masks (0 and 1), more give masks below `num_classes`.
      seed: of the random frames, log-mels and masks.
      pre_masks: whether there are any; random as well.
    """
    sizes = {"B": batch_size, "T": num_frames, "H": image_size[0], "W": image_size[1]}
    shapes = {name: tuple(sizes.get(axis, axis) for axis in field.axes) for name, field in FIELDS.items()}
    absent = {"audio_embedding", "frame_index"} | (set() if pre_masks else {"pre_masks"})
    batch = {name: np.zeros(shapes[name], field.dtype) for name, field in FIELDS.items() if name not in absent}
    for name in ("frame_valid", "mask_valid", "clip_valid"):
        batch[name][:] = True
    batch["category"][:] = -1
    batch["clip_index"][:] = np.arange(batch_size)
    if seed is not None:
        rng = np.random.default_rng(seed)
        batch["frames"] = rng.integers(0, 256, shapes["frames"], np.uint8)
        batch["log_mel"] = rng.normal(-2.0, 1.5, shapes["log_mel"]).astype(np.float32)
        batch["masks"] = rng.integers(0, max(num_classes, 2), shapes["masks"], np.uint8)
        if pre_masks:
            batch["pre_masks"] = rng.integers(0, 256, shapes["pre_masks"], np.uint8)
    return batch
