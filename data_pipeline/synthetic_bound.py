"""How well can a model that ignores the sound do? The best expected J on synthetic clips, computed from the clips.

    python -m data_pipeline.synthetic_bound --task s4 --split test --clips 740 --size 96 96

What sounds is drawn apart from everything visible. Someone who sees a frame knows its objects and how often none, one
or more of them sound, but not which: all sets of equally many objects are equally likely. The best answer for a frame
maximises the expected IoU over these sets, and it is a union of whole objects: with the rest fixed, the IoU with one
set is, as a function of how much of an object is predicted, linear if the object belongs to the set and convex if not,
so the expectation is convex and greatest at nothing or all of the object; background pixels only ever lower it. Trying
all unions is therefore exact.

J is that of the `clip` protocol: the mean over annotated frames of the IoU, where an empty truth scores 1 if the
prediction is empty too, else 0. Class maps (AVSS) count as sounding against not sounding, so there the bound is one on
finding the pixels, classes apart.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy as np

from data_pipeline.synthetic_clip import SPLITS, TASKS, Clip, RecipeError, make_clip


def bound(clips: Iterable[Clip]) -> float:
    """The best expected J of a model that sees the clips but does not hear them.

    Args:
      clips: of one task. How many objects sound at once is counted in these clips, separately for frames with three
        and with four visible objects.

    Returns:
      The mean over all annotated frames of the best expected IoU, in 0..1.

    Raises:
      RecipeError: if there is no annotated frame.
    """
    frames = []  # (areas of the visible objects, how many of them sound)
    counts = defaultdict(Counter)
    for clip in clips:
        for objects, sounding in zip(clip.objects[clip.mask_valid], clip.sounding[clip.mask_valid], strict=True):
            areas = objects.sum(axis=(1, 2))
            visible = areas > 0
            frames.append(areas[visible])
            counts[int(visible.sum())][int(sounding[visible].sum())] += 1
    if not frames:
        raise RecipeError("clips holds no annotated frame; give at least one clip")
    return float(np.mean([best_expected_iou(areas, _shares(counts[len(areas)], len(areas))) for areas in frames]))


def best_expected_iou(areas: np.ndarray, shares: np.ndarray) -> float:
    """The greatest expected IoU of a prediction for one frame.

    Args:
      areas: (N,) pixels of each visible object; objects do not share pixels.
      shares: (N + 1,) probability that 0, 1, .., N of them sound; which ones is unknown.

    Returns:
      The maximum over the 2**N unions of objects.
    """
    n = len(areas)
    subsets = (np.arange(1 << n)[:, None] >> np.arange(n)) & 1  # (2**N, N)
    sizes = subsets.sum(axis=1)
    probability = np.asarray(shares)[sizes] / np.bincount(sizes)[sizes]
    pixels = subsets * np.asarray(areas, np.float64)
    both = pixels @ subsets.T  # (prediction, truth)
    either = pixels.sum(axis=1)[:, None] + pixels.sum(axis=1)[None] - both
    iou = np.where(either > 0, both / np.maximum(either, 1), 1.0)
    return float((iou @ probability).max())


def _shares(counts: Counter, n: int) -> np.ndarray:
    total = sum(counts.values())
    return np.array([counts[k] / total for k in range(n + 1)])


def main(arguments: list[str] | None = None) -> None:
    """The command line: see the module's description."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipeline.synthetic_bound", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--task", required=True, choices=TASKS)
    parser.add_argument("--split", default="test", choices=SPLITS)
    parser.add_argument("--clips", type=int, default=200, metavar="N", help="the first N clips of the split")
    parser.add_argument("--size", type=int, nargs=2, default=(224, 224), metavar=("H", "W"), help="pixels of a frame")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    made = (make_clip(options.task, options.split, i, options.seed, tuple(options.size)) for i in range(options.clips))
    try:
        limit = bound(made)
    except RecipeError as error:
        parser.error(str(error))
    print(f"{options.task} {options.split}, {options.clips} clips: without sound, J is at most {limit:.3f}")


if __name__ == "__main__":
    main()
