"""Protocols for one class: figures in float64, from the counts of frames in the data set's order.

Every protocol is a function of `counts` (K,T,2,256), as `counts.binary_statistics` makes them, and `valid` (K,T), the
annotated frames. beta^2 of F is 0.3 everywhere.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from avs_jax.metrics.counts import CURVE, EDGES, HALF


@dataclasses.dataclass(frozen=True)
class Frames:
    """Pixel counts (...,) of frames under one prediction, or (..., thresholds) under several."""

    pixels: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray
    hits: np.ndarray  # predicted and true


def at_every_edge(counts: np.ndarray) -> Frames:
    """Counts (..., 2, 256) as `Frames` (..., 256): one prediction, score >= edge, for each of EDGES."""
    reached = np.cumsum(counts[..., ::-1], -1, dtype=np.int64)[..., ::-1]
    absent, present = reached[..., 0, :], reached[..., 1, :]
    return Frames(
        pixels=absent[..., :1] + present[..., :1], truth=present[..., :1], predicted=absent + present, hits=present
    )


def at_half(counts: np.ndarray) -> Frames:
    """Counts (..., 2, 256) as `Frames` (...,): the prediction is score > 0.5."""
    above = counts[..., HALF:].sum(-1, dtype=np.int64)
    truth = counts[..., 1, :].sum(-1, dtype=np.int64)
    pixels = counts.sum((-2, -1), dtype=np.int64)
    return Frames(pixels=pixels, truth=truth, predicted=above.sum(-1), hits=above[..., 1])


def f_measure(frames: Frames) -> np.ndarray:
    """F = 1.3 P R / (0.3 P + R) of each frame, 0 where nothing is hit."""
    precision = frames.hits / (frames.predicted + 1e-20)
    recall = frames.hits / (frames.truth + 1e-20)
    denominator = 0.3 * precision + recall
    return np.divide(1.3 * precision * recall, denominator, out=np.zeros_like(denominator), where=denominator > 0)


def fair_iou(frames: Frames) -> np.ndarray:
    """Intersection over union of each frame; a frame without object scores 1 if nothing is predicted, else 0."""
    union = frames.truth + frames.predicted - frames.hits
    return np.where(union > 0, frames.hits / np.maximum(union, 1), 1.0)


def fair_f(frames: Frames) -> np.ndarray:
    """F of each frame; a frame without object scores 1 if nothing is predicted, else 0."""
    return np.where(frames.truth + frames.predicted > 0, f_measure(frames), 1.0)


def area(frames: Frames) -> dict[str, np.ndarray]:
    """Share of each frame's pixels that is predicted, and that is true."""
    pixels = np.maximum(frames.pixels, 1)
    return {"area": frames.predicted / pixels, "true_area": frames.truth / pixels}


def clip_frames(counts: np.ndarray) -> dict[str, np.ndarray]:
    """J and F of each frame (K,T) under the `clip` protocol, and its area and true area."""
    frames = at_half(counts)
    return {"J": fair_iou(frames), "F": fair_f(frames), **area(frames)}


def clip(counts: np.ndarray, valid: np.ndarray) -> dict[str, float]:
    """Means over the annotated frames at threshold 0.5, an empty frame right only if left empty; our default.

    `F_best` is the highest mean F of any single threshold for the whole set, and `threshold` that threshold. `area` is
    the mean share of a frame that is predicted: under audio that nothing in the picture makes, the less the better.
    """
    frames = counts[valid]
    means = fair_f(at_every_edge(frames)).mean(0)
    best = int(np.argmax(means))
    return {
        **{name: float(values.mean()) for name, values in clip_frames(frames).items()},
        "F_best": float(means[best]),
        "threshold": float(EDGES[best]),
    }


def dataset(counts: np.ndarray, valid: np.ndarray) -> dict[str, float]:
    """One intersection and one union over the data set, at threshold 0.5; F from the same sums."""
    total = at_half(counts[valid].sum(0, dtype=np.int64))
    return {"J": float(fair_iou(total)), "F": float(fair_f(total))}


def avsbench(counts: np.ndarray, valid: np.ndarray, batch_size: int = 2) -> dict[str, float]:
    """The published S4 and MS3 figures: means over batches of `batch_size` clips, in the data set's order.

    J: a frame without object scores the share of its pixels that are left empty. F: of each batch the maximum over 255
    thresholds of its mean curve, over its frames with an object (0 if there are none), so F depends on the batch size:
    AVSegFormer evaluates with 2, AVSBench with 4 (its validation with 1).
    """
    if batch_size < 1:
        raise ValueError(f"protocol 'avsbench': batch_size={batch_size}: at least 1")
    starts = range(0, len(counts), batch_size)
    batches = [counts[i : i + batch_size][valid[i : i + batch_size]] for i in starts]
    return {
        "J": float(np.mean([_published_iou(batch) for batch in batches])),
        "F": float(np.mean([_published_f(batch) for batch in batches])),
    }


def _published_iou(counts: np.ndarray) -> float:
    frames = at_half(counts)
    empty = frames.truth == 0
    hits = np.where(empty, frames.pixels - frames.predicted, frames.hits)
    union = np.where(empty, frames.pixels, frames.truth + frames.predicted - frames.hits)
    return float(np.mean(hits / (union + 1e-7)))


def _published_f(counts: np.ndarray) -> float:
    objects = counts[counts[..., 1, :].any(-1)]
    if not len(objects):
        return 0.0
    return float(f_measure(at_every_edge(objects))[..., CURVE].mean(0).max())
