"""Annotated frames of many clips, packed into dense batches of static shape.

Where frames do not interact, a frame without annotation is work for nothing: it has no part in any loss or figure. In
a packed batch every frame is a clip of its own, of one frame, which `clip_index` and `frame_index` still name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from data_pipeline.batch import FIELDS


def pack(batch: Mapping[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
    """The annotated ones of a batch's B x T frames, in order, as B = `size` clips of T = 1.

    What is left is filled up with the same frames over again (statistics over a batch then change little), which are
    not annotated; where none is, with those that the batch begins with.

    Args:
      batch: of the contract in `batch`.
      size: at least the number of annotated frames, at most B x T.
    """
    annotated = batch["mask_valid"] & batch["clip_valid"][:, None]
    places = np.flatnonzero(annotated)
    number = len(places)
    if not number <= size <= annotated.size:
        raise ValueError(f"{number} of {annotated.size} frames do not make {size}")
    clips, frames = np.divmod(np.resize(places if number else np.arange(size), size), annotated.shape[1])
    packed = {}
    for name, value in batch.items():
        packed[name] = value[clips, frames][:, None] if "T" in FIELDS[name].axes else value[clips]
    packed["mask_valid"][number:] = False
    return packed | {"frame_index": frames.astype(np.int32)}


def size(annotated: int, clips: int, frames: int, sizes: Sequence[int]) -> int:
    """The smallest packed batch for `annotated` frames of so many clips of so many frames.

    Its size is one of `sizes`, in frames a clip, times `clips`, or else all frames: few sizes, since each is a program
    of its own, and multiples of `clips`, since those can be split over devices as the clips can.
    """
    fitting = [clips * each for each in sizes if annotated <= clips * each and each < frames]
    return min(fitting, default=clips * frames)


def whole_clips(annotated: Sequence[int], size: int) -> list[range]:
    """Shares out clips in order, as many at a time as have at most `size` annotated frames together."""
    groups, start, held = [], 0, 0
    for clip, count in enumerate(annotated):
        if held + count > size:
            groups.append(range(start, clip))
            start, held = clip, 0
        held += count
    return [*groups, range(start, len(annotated))] if len(annotated) else []
