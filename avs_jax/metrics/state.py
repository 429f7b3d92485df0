"""The state of an evaluation: counts of the clips that were seen, mergeable, from which every protocol is computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from avs_jax.metrics import binary, semantic, vct
from avs_jax.metrics.counts import statistics

BINARY_PROTOCOLS = {"clip": binary.clip, "avsbench": binary.avsbench, "dataset": binary.dataset, "vct": vct.binary}
SEMANTIC_PROTOCOLS = {"clip": semantic.clip, "avss": semantic.avss, "dataset": semantic.dataset, "vct": vct.semantic}

Array = jax.Array | np.ndarray


def protocols(num_classes: int) -> tuple[str, ...]:
    """Names of the protocols for so many classes."""
    return tuple(BINARY_PROTOCOLS if num_classes == 1 else SEMANTIC_PROTOCOLS)


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Counts of K clips of T frames, in the data set's order, each clip once.

    Attributes:
      num_classes: 1, or more than one with class 0 the background.
      clip_index: (K,) int64, ascending: each clip's position in the data set.
      valid: (K,T) bool: the annotated frames.
      counts: (K,T,2,256) or (K,T,4,C) int32, see `counts.binary_statistics` and `counts.class_statistics`.
    """

    num_classes: int
    clip_index: np.ndarray
    valid: np.ndarray
    counts: np.ndarray

    @classmethod
    def empty(cls, num_classes: int = 1) -> Statistics:
        """The state before the first clip."""
        shape = (0, 0, 2, 256) if num_classes == 1 else (0, 0, 4, num_classes)
        return cls(num_classes, np.zeros(0, np.int64), np.zeros((0, 0), bool), np.zeros(shape, np.int32))

    @classmethod
    def of(cls, counts: np.ndarray, valid: np.ndarray, clip_index: np.ndarray) -> Statistics:
        """The state of one batch of counts.

        Left out as padding: clips with a negative index or without an annotated frame. A frame whose every pixel is
        ignored is not annotated.
        """
        counts, valid, clip_index = np.asarray(counts), np.asarray(valid, bool), np.asarray(clip_index, np.int64)
        binary_counts = counts.shape[-2] == 2
        pixels = counts.sum((-2, -1)) if binary_counts else counts[..., 1, :].sum(-1)
        valid = valid & (pixels > 0)
        real = np.flatnonzero(valid.any(-1) & (clip_index >= 0))
        order = real[np.argsort(clip_index[real], kind="stable")]
        classes = 1 if binary_counts else counts.shape[-1]
        return cls(classes, clip_index[order], valid[order], counts[order])._checked()

    def merge(self, *others: Statistics) -> Statistics:
        """The state of all clips of this and other states, in any order.

        Raises:
          ValueError: a clip is in two of them, or they are of different shapes.
        """
        parts = [part for part in (self, *others) if len(part.clip_index)]
        if not parts:
            return self
        shapes = sorted({part.counts.shape[1:] for part in parts})
        if len(shapes) > 1 or any(part.num_classes != self.num_classes for part in parts):
            raise ValueError(f"these evaluations do not belong together: {self.num_classes} classes, counts {shapes}")
        clip_index = np.concatenate([part.clip_index for part in parts])
        valid = np.concatenate([part.valid for part in parts])
        counts = np.concatenate([part.counts for part in parts])
        order = np.argsort(clip_index, kind="stable")
        return Statistics(self.num_classes, clip_index[order], valid[order], counts[order])._checked()

    def compute(self, protocol: str, **options: Any) -> dict[str, float]:
        """The figures of a protocol, all between 0 and 1.

        Raises:
          ValueError: no such protocol for this number of classes, or no clip was evaluated.
        """
        figures = _protocol(self.num_classes, protocol)
        if not len(self.clip_index):
            raise ValueError("no clip was evaluated: there is nothing to compute a figure from")
        return figures(self.counts, self.valid, **options)

    def per_clip(self) -> dict[str, np.ndarray]:
        """One value a clip (K,): its index, annotated frames, and their mean `clip` J, F, area and true area."""
        frames = binary.clip_frames(self.counts) if self.num_classes == 1 else semantic.clip_frames(self.counts)
        number = self.valid.sum(-1)
        means = {name: np.where(self.valid, value, 0.0).sum(-1) / number for name, value in frames.items()}
        return {"clip_index": self.clip_index, "frames": number, **means}

    def _checked(self) -> Statistics:
        twice = self.clip_index[1:][self.clip_index[1:] == self.clip_index[:-1]]
        if twice.size:
            raise ValueError(f"clips evaluated more than once: {', '.join(map(str, twice[:10].tolist()))}")
        return self


@dataclasses.dataclass(frozen=True)
class Metric:
    """One protocol over growing statistics; `update` and `merge` return a new state.

    `in_order` is whether the clips are numbered as they come, for want of their positions in the data set.
    """

    protocol: str
    options: dict[str, Any]
    statistics: Statistics
    in_order: bool = True

    def update(
        self, scores: Array, masks: Array, valid: Array | None = None, clip_index: Array | None = None
    ) -> Metric:
        """Adds a batch.

        Args:
          scores: (B,T,H,W,C) float32 probabilities.
          masks: (B,T,H,W) uint8 class indices, 255 ignored.
          valid: (B,T) bool, the annotated frames; all of them if None.
          clip_index: (B,) positions in the data set, negative for padding; the next ones if None.

        Raises:
          ValueError: another number of classes than this metric's, or a clip that it has already.
        """
        if scores.shape[-1] != self.statistics.num_classes:
            raise ValueError(f"scores have {scores.shape[-1]} classes, this metric {self.statistics.num_classes}")
        valid = np.ones(masks.shape[:2], bool) if valid is None else valid
        in_order = self.in_order and clip_index is None
        clip_index = np.arange(len(masks)) if clip_index is None else clip_index
        batch = Statistics.of(np.asarray(statistics(scores, masks)), valid, clip_index)
        return self.merge(dataclasses.replace(self, statistics=batch, in_order=in_order))

    def merge(self, other: Metric) -> Metric:
        """Joins the clips of two states; where neither knows their positions, the other's come after this one's."""
        new = other.statistics
        in_order = self.in_order and other.in_order
        if in_order and len(self.statistics.clip_index):
            new = dataclasses.replace(new, clip_index=new.clip_index + self.statistics.clip_index[-1] + 1)
        return dataclasses.replace(self, statistics=self.statistics.merge(new), in_order=in_order)

    def compute(self) -> dict[str, float]:
        """The protocol's figures, see `Statistics.compute`."""
        return self.statistics.compute(self.protocol, **self.options)

    def per_clip(self) -> dict[str, np.ndarray]:
        """One value a clip, see `Statistics.per_clip`."""
        return self.statistics.per_clip()


def create(protocol: str, num_classes: int = 1, **options: Any) -> Metric:
    """An empty state of a protocol, for example `create("avsbench", batch_size=4)` or `create("avss", 71)`.

    Raises:
      ValueError: no such protocol for this number of classes.
    """
    _protocol(num_classes, protocol)
    return Metric(protocol, options, Statistics.empty(num_classes))


def _protocol(num_classes: int, name: str) -> Callable[..., dict[str, float]]:
    table = BINARY_PROTOCOLS if num_classes == 1 else SEMANTIC_PROTOCOLS
    if name not in table:
        raise ValueError(f"protocol {name!r}: for {num_classes} classes one of {', '.join(table)}")
    return table[name]
