"""The protocols for one class against the published evaluator's numbers, and against their definitions in float64."""

from __future__ import annotations

import itertools

import golden
import numpy as np
import pytest

from avs_jax import metrics
from avs_jax.metrics import binary, counts
from tests.metrics.definitions import f_measure, fair_f, iou, pixels


def avsbench_batch(frames, thresholds):
    """J and F of one batch of (score, mask) frames, scores (P,) and masks (P,)."""
    scores = []
    curves = []
    for score, mask in frames:
        p, g = score > 0.5, mask > 0
        if g.any():
            scores.append(np.logical_and(p, g).sum() / (np.logical_or(p, g).sum() + 1e-7))
            curves.append([f_measure(score >= t, g) for t in thresholds])
        else:
            scores.append((~p).sum() / (p.size + 1e-7))
    return np.mean(scores), np.max(np.mean(curves, 0)) if curves else 0.0


def clip_figures(frames, thresholds):
    j = np.mean([iou(score > 0.5, mask > 0) for score, mask in frames])
    f = np.mean([fair_f(score > 0.5, mask > 0) for score, mask in frames])
    means = [np.mean([fair_f(score >= t, mask > 0) for score, mask in frames]) for t in thresholds]
    return {
        "J": j,
        "F": f,
        "F_best": max([f, *means]),
        "area": np.mean([(score > 0.5).mean() for score, _ in frames]),
        "true_area": np.mean([(mask > 0).mean() for _, mask in frames]),
    }


def sigmoid(logits):
    with np.errstate(over="ignore"):
        return (1 / (1 + np.exp(-logits))).astype(np.float32)


def published_scenarios():
    """The golden's scenarios: name -> (logits, truth), frames (N,H,W)."""
    inputs = golden.load("avsegformer/metrics_binary").inputs
    truth, noise = inputs["gt"], inputs["noise"]
    strength = np.array([-0.5, 0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 3], np.float32)[:, None, None]
    logits = (3 * (2 * truth - 1) * strength + noise).astype(np.float32)
    some, none, low = truth.copy(), np.zeros_like(truth), np.full_like(logits, -20)
    some[[1, 4, 8]] = 0
    return {
        "plain": (logits, truth),
        "some_empty_gt": (logits, some),
        "all_empty_gt": (logits, none),
        "all_empty_pred": (low, truth),
        "all_empty_both": (low, none),
        "full_pred": (-low, truth),
        "saturated": (20 * logits, truth),
        "zero_logits": (0 * logits, truth),
        "single_frame": (logits[5:6], truth[5:6]),
        "single_empty_frame": (logits[5:6], none[5:6]),
        "first_five": (logits[:5], some[:5]),
        "last_five": (logits[5:], some[5:]),
    }


@pytest.mark.parametrize("name", published_scenarios())
def test_avsbench_equals_the_published_values(name):
    logits, truth = published_scenarios()[name]
    value = golden.load("avsegformer/metrics_binary").values[name]
    scores, masks = sigmoid(logits)[..., None], truth.astype(np.uint8)
    together = metrics.create("avsbench", batch_size=2).update(scores[None], masks[None]).compute()
    assert together["J"] == pytest.approx(value["mask_iou"], abs=1e-6)
    assert together["F"] == pytest.approx(value["F_measure"], abs=1e-6)
    one_by_one = metrics.create("avsbench").update(scores[:, None], masks[:, None]).statistics
    for i in range(len(scores)):
        alone = binary.avsbench(one_by_one.counts[i : i + 1], one_by_one.valid[i : i + 1])
        assert alone["J"] == pytest.approx(value["iou_per_frame_alone"][i], abs=1e-6)
        assert alone["F"] == pytest.approx(value["F_per_frame_alone"][i], abs=1e-6)


@pytest.mark.parametrize(
    ("scenario", "frame", "name"), [("plain", 5, "frame_5"), ("saturated", 9, "saturated_frame_9")]
)
def test_curves_equal_the_published_ones(scenario, frame, name):
    logits, truth = published_scenarios()[scenario]
    case = golden.load("avsegformer/metrics_binary")
    found = metrics.binary_statistics(sigmoid(logits)[None, ..., None], truth[None].astype(np.uint8))
    frames = binary.at_every_edge(np.asarray(found)[0, frame])
    precision = (frames.hits / (frames.predicted + 1e-20))[counts.CURVE]
    recall = (frames.hits / (frames.truth + 1e-20))[counts.CURVE]
    np.testing.assert_allclose(precision, case.stored(f"precision_{name}"), atol=1e-6)
    np.testing.assert_allclose(recall, case.stored(f"recall_{name}"), atol=1e-6)


def binary_set(seed=0, clips=7, frames=3, size=6):
    """Scores, masks with empty frames and ignored pixels, valid; some frames are not annotated."""
    rng = np.random.default_rng(seed)
    masks = (rng.random((clips, frames, size, size)) < 0.4).astype(np.uint8)
    noise = rng.normal(size=(clips, frames, size, size, 1))
    scores = (1 / (1 + np.exp(-(2.0 * masks[..., None] - 1 + noise)))).astype(np.float32)
    masks[::3, 1] = 0
    scores[0, 1] = 0.1
    masks[1:, :, 0] = 255
    valid = rng.random((clips, frames)) < 0.8
    valid[:, 0] = True
    return scores, masks, valid


def annotated(scores, masks, valid):
    """Each clip's annotated frames: (score, mask) without the ignored pixels, in float64."""
    scores = scores[..., 0].astype(np.float64)
    return [
        [pixels(scores[k, t], masks[k, t]) for t in range(masks.shape[1]) if valid[k, t]] for k in range(len(masks))
    ]


@pytest.mark.parametrize("batch_size", [1, 2, 4, 7, 100])
def test_avsbench_by_definition(batch_size):
    case = binary_set()
    clips = annotated(*case)
    batches = [list(itertools.chain(*clips[i : i + batch_size])) for i in range(0, len(clips), batch_size)]
    expected = np.mean([avsbench_batch(batch, counts.THRESHOLDS.astype(np.float64)) for batch in batches], 0)
    found = metrics.create("avsbench", batch_size=batch_size).update(*case).compute()
    np.testing.assert_allclose([found["J"], found["F"]], expected, rtol=1e-12)


def test_clip_and_dataset_by_definition():
    case = binary_set(seed=1)
    frames = list(itertools.chain(*annotated(*case)))
    statistics = metrics.create("clip").update(*case).statistics
    found = statistics.compute("clip")
    expected = clip_figures(frames, counts.THRESHOLDS.astype(np.float64))
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-12)
    assert np.mean([fair_f(s >= found["threshold"], m > 0) for s, m in frames]) == pytest.approx(found["F_best"])
    joined = [np.concatenate(parts) for parts in zip(*frames, strict=True)]
    total = statistics.compute("dataset")
    assert total["J"] == pytest.approx(iou(joined[0] > 0.5, joined[1] > 0), rel=1e-12)
    assert total["F"] == pytest.approx(f_measure(joined[0] > 0.5, joined[1] > 0), rel=1e-12)


def test_an_empty_frame_is_right_only_if_left_empty():
    scores = np.zeros((2, 1, 4, 4, 1), np.float32)
    scores[1, 0, 0, 0] = 0.9
    found = metrics.create("clip").update(scores, np.zeros((2, 1, 4, 4), np.uint8)).compute()
    assert (found["J"], found["F"], found["F_best"]) == (0.5, 0.5, 1.0)
    assert found["threshold"] > 0.9 and found["area"] == 1 / 32
