"""The best J without sound, against brute force over pixels and against simulated listeners."""

import itertools

import numpy as np
import pytest

from data_pipeline import synthetic
from data_pipeline.synthetic_bound import best_expected_iou, main


def iou(prediction, truth):
    """Of two masks as sets of pixels; the `clip` protocol's rule for an empty truth."""
    return len(prediction & truth) / len(prediction | truth) if truth else float(not prediction)


def brute_force(areas, shares):
    """The maximum over every set of pixels, one background pixel included."""
    edges = np.cumsum([0, *areas])
    objects = [set(range(a, b)) for a, b in itertools.pairwise(edges)]
    everything = range(edges[-1] + 1)
    best = 0.0
    for size in range(len(everything) + 1):
        for pixels in itertools.combinations(everything, size):
            expected = 0.0
            for number, share in enumerate(shares):
                truths = [set().union(*chosen) for chosen in itertools.combinations(objects, number)]
                expected += share * np.mean([iou(set(pixels), truth) for truth in truths])
            best = max(best, expected)
    return best


@pytest.mark.parametrize(
    ("areas", "shares"),
    [
        ((2, 3, 4), (0, 1, 0, 0)),
        ((1, 4, 4), (0.2, 0.5, 0.2, 0.1)),
        ((3, 3, 3), (0.4, 0.2, 0.2, 0.2)),
        ((2, 2, 2, 3), (0.1, 0.3, 0.4, 0.2, 0)),
    ],
)
def test_best_expected_iou_is_the_best_of_all_pixel_sets(areas, shares):
    assert best_expected_iou(np.array(areas), np.array(shares)) == pytest.approx(brute_force(areas, shares), abs=1e-12)


@pytest.mark.parametrize("areas", [(500, 500), (10, 700, 30), (1, 2, 3, 4)])
def test_one_of_n_objects_sounds(areas):
    """Whatever the areas and the prediction P: the sum over i in P of (1 / n) area_i / area_P is 1 / n."""
    n = len(areas)
    assert best_expected_iou(np.array(areas), np.eye(n + 1)[1]) == pytest.approx(1 / n)


def test_bound_of_s4_clips_is_what_the_best_guesser_gets():
    """Sources are drawn anew many times against the union of objects that does best on average in each frame."""
    clips = [synthetic.make_clip("s4", "val", i, 1, (32, 32)) for i in range(40)]
    rng = np.random.default_rng(0)
    scores = []
    for objects in [[mask for mask in frame if mask.any()] for clip in clips for frame in clip.objects]:
        subsets = [subset for size in range(1, 5) for subset in itertools.combinations(objects, size)]
        unions = [np.any(subset, axis=0) for subset in subsets]
        table = np.array([[(union & truth).sum() / (union | truth).sum() for truth in objects] for union in unions])
        scores.append(table[table.mean(axis=1).argmax(), rng.integers(len(objects), size=300)].mean())
    assert synthetic.bound(clips) == pytest.approx(np.mean(scores), abs=0.01)


def test_bound_of_ms3_clips_holds_for_simulated_models():
    """Models that answer by size alone, on many clips: their measured J stays below the bound, within chance."""
    clips = [synthetic.make_clip("ms3", "val", i, 1, (32, 32)) for i in range(250)]
    limit = synthetic.bound(clips)

    def measured(choose):
        values = []
        for clip in clips:
            for objects, mask in zip(clip.objects, clip.masks > 0, strict=True):
                order = np.argsort(-objects.sum(axis=(1, 2)))
                prediction = objects[order[: choose(len(order))]].any(axis=0)
                either = (prediction | mask).sum()
                values.append((prediction & mask).sum() / either if mask.any() else float(not prediction.any()))
        return np.mean(values)

    results = [measured(lambda n, k=k: min(k, n)) for k in range(5)]
    assert max(results) < limit + 0.02
    assert max(results) > limit - 0.10


def test_no_clips():
    with pytest.raises(ValueError, match="at least one clip"):
        synthetic.bound([])


def test_command_line(capsys):
    main("--task s4 --clips 5 --size 32 32".split())
    assert "s4 test, 5 clips: without sound, J is at most 0." in capsys.readouterr().out
