"""Protocols for several classes, 0 the background: figures in float64, from counts of frames in the data set's order.

Every protocol is a function of `counts` (K,T,4,C), as `counts.class_statistics` makes them (intersection, prediction,
truth, ignored prediction), and `valid` (K,T), the annotated frames. beta^2 of F is 0.3 everywhere.
"""

from __future__ import annotations

import numpy as np

from avs_jax.metrics import binary


def class_scores(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """IoU, F and whether a class occurs in prediction or truth, each (..., C), of counts (..., 4, C)."""
    hits, predicted, truth, _ = np.moveaxis(counts.astype(np.int64), -2, 0)
    frames = binary.Frames(pixels=predicted.sum(-1, keepdims=True), truth=truth, predicted=predicted, hits=hits)
    union = truth + predicted - hits
    return hits / (union + 2.22e-16), binary.f_measure(frames), union > 0


def foreground(counts: np.ndarray) -> binary.Frames:
    """Counts (..., 4, C) as `Frames` (...,) of one class: whatever is not background."""
    hits, predicted, truth, _ = np.moveaxis(counts[..., 0].astype(np.int64), -1, 0)
    pixels = counts[..., 1, :].sum(-1, dtype=np.int64)
    neither = predicted + truth - hits  # background in the prediction or in the truth
    return binary.Frames(pixels=pixels, truth=pixels - truth, predicted=pixels - predicted, hits=pixels - neither)


def clip_frames(counts: np.ndarray) -> dict[str, np.ndarray]:
    """J and F of each frame (K,T) under the `clip` protocol, and its area and true area, of what is not background."""
    iou, f, occurs = (scores[..., 1:] for scores in class_scores(counts))
    number = occurs.sum(-1)
    totals = {"J": (iou * occurs).sum(-1), "F": (f * occurs).sum(-1)}
    fair = {name: np.where(number > 0, total / np.maximum(number, 1), 1.0) for name, total in totals.items()}
    return fair | binary.area(foreground(counts))


def clip(counts: np.ndarray, valid: np.ndarray) -> dict[str, float]:
    """Means over the annotated frames; an empty frame scores 1 if it is left empty, else 0; our default.

    J and F of a frame are means over the classes other than background that occur in its prediction or truth, so a
    class that is wrongly seen costs as much as one that is missed. `J_foreground` and `F_foreground` are those of the
    `clip` protocol for one class, "something sounds here", whichever class it is given. `area` is the mean share
    of a frame that is not predicted as background.
    """
    frames = counts[valid]
    blind = foreground(frames)
    return {
        **{name: float(values.mean()) for name, values in clip_frames(frames).items()},
        "J_foreground": float(binary.fair_iou(blind).mean()),
        "F_foreground": float(binary.fair_f(blind).mean()),
    }


def dataset(counts: np.ndarray, valid: np.ndarray) -> dict[str, float]:
    """One intersection and one union a class over the data set; means over the classes that occur in either."""
    iou, f, occurs = class_scores(counts[valid].sum(0, dtype=np.int64))
    return {
        "J": _mean(iou[occurs]),
        "F": _mean(f[occurs]),
        "J_no_background": _mean(iou[1:][occurs[1:]]),
        "F_no_background": _mean(f[1:][occurs[1:]]),
    }


def avss(counts: np.ndarray, valid: np.ndarray, padded: bool = True) -> dict[str, float]:
    """The published AVSS figures: a class's mean over the frames where it occurs, 0 for one that never does.

    Args:
      padded: whether frames that are not annotated, which fill a clip up to its T frames, count as background that was
        recognised perfectly, as published.

    Returns:
      J and F over all classes, without the background, and without the *last* class, which is what the published code
      leaves out under the name "noBg".
    """
    iou, f, occurs = class_scores(counts[valid])
    perfect = np.zeros(counts.shape[-1])
    perfect[0] = np.count_nonzero(~valid) if padded else 0
    number = np.maximum(occurs.sum(0) + perfect, 1)
    scores = {"J": (iou.sum(0) + perfect) / number, "F": (f.sum(0) + perfect) / number}
    kept = {"": slice(None), "_no_background": slice(1, None), "_no_last_class": slice(None, -1)}
    return {name + suffix: float(value[part].mean()) for suffix, part in kept.items() for name, value in scores.items()}


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else 0.0
