"""VCT's protocols against the published evaluators."""

from __future__ import annotations

import golden
import jax
import numpy as np

from avs_jax import metrics


def binary_video(case, number):
    """Object probabilities (5, H, W, 1) and masks."""
    inputs = case.inputs
    truth = inputs[f"video{number}/gt"].copy()
    truth[np.asarray(inputs[f"video{number}/gt_frames_set_to_zero"], int)] = 0
    scores = inputs[f"video{number}/scores"].copy()
    scores[:, 1] += np.float32(0.8) * truth
    return jax.nn.softmax(scores, axis=1)[:, 1, ..., None], truth.astype(np.uint8)


def test_figures_of_one_class():
    case = golden.load("vct/evaluator_binary")
    videos = [binary_video(case, i) for i in range(3)]
    for (scores, masks), published in zip(videos, case.manifest["per_video"], strict=True):
        found = metrics.create("vct").update(scores[None], masks[None]).compute()
        np.testing.assert_allclose([found["J"], found["F"]], [published["miou"], published["f_score"]], atol=1e-6)
    scores, masks = (np.stack(part) for part in zip(*videos, strict=True))
    found = metrics.create("vct").update(scores, masks).compute()
    assert {"mIoU": round(found["J"], 4), "f_score": round(found["F"], 4)} == case.manifest["result"]


def semantic_video(case, number):
    """Scores (T, H, W, 71) and masks, as the case's text says."""
    inputs = case.inputs
    labels, scores = inputs[f"video{number}/labels"], inputs[f"video{number}/scores"].copy()
    truth = np.zeros((len(scores), *scores.shape[2:]), np.uint8)
    for j in range(2):
        truth[inputs[f"video{number}/gt{j}"] > 0] = labels[1 + j]
    truth[:, :4, :4] = 255
    for label in labels:
        scores[:, label] += np.float32(2) * (truth == label)
    scores[:, labels[0]] += np.float32(1.5)
    scores[:, labels[1]] += np.float32(1)
    return scores.transpose(0, 2, 3, 1), truth


def test_figures_of_71_classes():
    case = golden.load("vct/evaluator_avss")
    metric = metrics.create("vct", 71)
    for number in range(3):
        scores, masks = semantic_video(case, number)
        assert case.check(f"video{number}/argmax", scores.argmax(-1)).max_abs == 0
        padding = ((0, 10 - len(masks)), (0, 0), (0, 0))
        valid = np.arange(10) < len(masks)
        metric = metric.update(np.pad(scores, (*padding, (0, 0)))[None], np.pad(masks, padding)[None], valid[None])
    found = metric.compute()

    iou, f, frames = case.stored("class_sums").astype(np.float64)
    mean_iou, mean_f = (np.divide(x, frames, out=np.zeros(71), where=frames > 0) for x in (iou, f))
    np.testing.assert_allclose([found["J"], found["F"]], [mean_iou.mean(), mean_f.mean()], atol=1e-6)
    logged = case.manifest["logged"]
    assert round(found["J"], 4) == logged["miou"] and round(found["F"], 4) == logged["f_score"]
    assert round(found["J_no_last_class"], 4) == logged["miou_without_last_class"]
    assert round(found["F_no_last_class"], 4) == logged["f_score_without_last_class"]
