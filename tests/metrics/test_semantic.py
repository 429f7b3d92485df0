"""The protocols for 71 classes against the published evaluator's numbers, and against their definitions in float64."""

from __future__ import annotations

import golden
import numpy as np
import pytest

from avs_jax import metrics
from avs_jax.metrics import semantic
from tests.metrics.definitions import f_measure, fair_f, iou, pixels


def clip_figures(frames):
    """frames of (predicted class, class), each (P,)."""
    per_frame = []
    for p, g in frames:
        classes = sorted((set(p.tolist()) | set(g.tolist())) - {0})
        j = np.mean([iou(p == c, g == c) for c in classes]) if classes else 1.0
        f = np.mean([f_measure(p == c, g == c) for c in classes]) if classes else 1.0
        per_frame.append((j, f, iou(p > 0, g > 0), fair_f(p > 0, g > 0), (p > 0).mean(), (g > 0).mean()))
    return dict(
        zip(("J", "F", "J_foreground", "F_foreground", "area", "true_area"), np.mean(per_frame, 0), strict=True)
    )


def avss_figures(frames, classes, padded):
    """`padded` frames of perfect background count with the frames."""
    j, f = [[] for _ in range(classes)], [[] for _ in range(classes)]
    for p, g in frames + [(np.zeros(4, int), np.zeros(4, int))] * padded:
        for c in set(p.tolist()) | set(g.tolist()):
            j[c].append(iou(p == c, g == c))
            f[c].append(f_measure(p == c, g == c))
    return np.array([[np.mean(v) if v else 0.0 for v in values] for values in (j, f)])


def colour_batch(number):
    """Scores (2,10,48,48,71), labels and valid (2,10) of the golden: half of the first clip is padding."""
    inputs = golden.load("avsegformer/metrics_colour").inputs
    label, noise = inputs[f"label_{number}"].copy(), inputs[f"noise_{number}"]
    logits = np.moveaxis(noise, 1, -1) + 3 * np.eye(71, dtype=np.float32)[label]
    logits[5:10], label[5:10] = 0, 0
    valid = np.ones((2, 10), bool)
    valid[0, 5:] = False
    return logits.reshape(2, 10, 48, 48, 71), label.astype(np.uint8).reshape(2, 10, 48, 48), valid


@pytest.mark.parametrize("padding", [0, 255])
def test_avss_equals_the_published_values(padding):
    case, metric = golden.load("avsegformer/metrics_colour"), metrics.create("avss", 71)
    for number in (0, 1):
        scores, labels, valid = colour_batch(number)
        metric = metric.update(scores, np.where(valid[..., None, None], labels, padding).astype(np.uint8), valid)
        value, found = case.values[f"final_after_{number}"], metric.compute()
        names = {"J": "miou", "F": "f_score", "J_no_last_class": "miou_noBg", "F_no_last_class": "f_score_noBg"}
        assert {n: found[n] for n in names} == pytest.approx({n: value[v] for n, v in names.items()}, abs=1e-6)


def test_class_sums_equal_the_published_ones():
    case = golden.load("avsegformer/metrics_colour")
    scores, labels, _ = colour_batch(0)
    iou, f, occurs = semantic.class_scores(np.asarray(metrics.class_statistics(scores, labels)))
    np.testing.assert_allclose(iou.sum((0, 1)), case.stored("iou_sum_0"), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(f.sum((0, 1)), case.stored("f_sum_0"), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(occurs.sum((0, 1)), case.stored("count_0"))
    per_frame = (iou.sum(-1) / np.count_nonzero(iou, -1)).reshape(-1)
    np.testing.assert_allclose(per_frame, case.stored("frame_miou_0"), atol=1e-6)


@pytest.mark.parametrize(("label", "name"), [(0, "all_background"), (3, "all_wrong")])
def test_avss_of_one_class_alone(label, name):
    value = golden.load("avsegformer/metrics_colour").values[name]
    found = metrics.create("avss", 71).update(np.zeros((1, 10, 4, 4, 71)), np.full((1, 10, 4, 4), label, np.uint8))
    assert found.compute()["J"] == pytest.approx(value["miou"], abs=1e-6)
    assert found.compute()["J_no_last_class"] == pytest.approx(value["miou_noBg"], abs=1e-6)


def semantic_set(classes=5, clips=4, frames=3, size=6):
    rng = np.random.default_rng(3)
    masks = rng.choice(np.array([0, 0, 1, 3], np.uint8), (clips, frames, size, size))
    scores = rng.random((clips, frames, size, size, classes)).astype(np.float32)
    scores += 0.8 * np.eye(classes, dtype=np.float32)[masks]
    masks[0, 0], masks[1, 1] = 0, 0
    scores[0, 0, ..., 0] = 9  # empty and left empty
    masks[2:, :, 0] = 255
    valid = np.ones((clips, frames), bool)
    valid[1:3, 2] = False
    return scores, masks, valid


def semantic_frames(scores, masks, valid):
    predicted = scores.argmax(-1)
    return [pixels(predicted[i], masks[i]) for i in np.ndindex(valid.shape) if valid[i]]


def test_semantic_clip_by_definition():
    case = semantic_set()
    found = metrics.create("clip", 5).update(*case).compute()
    assert found == pytest.approx(clip_figures(semantic_frames(*case)), rel=1e-12)


@pytest.mark.parametrize("padded", [True, False])
def test_avss_by_definition(padded):
    case = semantic_set()
    j, f = avss_figures(semantic_frames(*case), 5, padded=2 if padded else 0)
    found = metrics.create("avss", 5, padded=padded).update(*case).compute()
    expected = {"J": j.mean(), "F": f.mean(), "J_no_background": j[1:].mean(), "F_no_background": f[1:].mean()}
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-12)
    assert found["J_no_last_class"] == pytest.approx(j[:-1].mean(), rel=1e-12)


def test_semantic_dataset_by_definition():
    case = semantic_set(classes=6)
    case[0][..., 5] = -1  # a class that never occurs
    p, g = (np.concatenate(parts) for parts in zip(*semantic_frames(*case), strict=True))
    occurs = sorted(set(p.tolist()) | set(g.tolist()))
    assert 5 not in occurs and 0 in occurs
    found = metrics.create("dataset", 6).update(*case).compute()
    j, f = ([figure(p == c, g == c) for c in occurs] for figure in (iou, f_measure))
    expected = {"J": np.mean(j), "F": np.mean(f), "J_no_background": np.mean(j[1:]), "F_no_background": np.mean(f[1:])}
    assert found == pytest.approx(expected, rel=1e-12)
