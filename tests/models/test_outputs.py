"""From VCT's predictions to scores of pixels, against the published inference."""

from __future__ import annotations

import golden
import jax
import numpy as np
import pytest

from avs_jax.models.outputs import VCTOutputs, query_scores, semantic_scores


def outputs_of(case, frame_valid=(True, True)):
    logits, masks = case.inputs["pred_logits"], case.inputs["pred_masks"]
    return VCTOutputs(logits[None, None], masks[None, None], np.array([frame_valid]))


@pytest.mark.parametrize("name", ("infer_s4_384", "infer_avss_384"))
def test_published_score_maps(name):
    case = golden.load(f"vct/{name}")
    scores = np.asarray(jax.jit(query_scores, static_argnums=1)(outputs_of(case), (224, 224)))[0].transpose(0, 3, 1, 2)
    difference = case.check("sem_seg", scores)
    assert difference.max_abs < 1e-5 * difference.golden_max_abs
    assert case.check("argmax", scores.argmax(1)).mean_abs == 0


def test_one_class_has_the_probability_of_the_object():
    case = golden.load("vct/infer_s4_384")
    found = np.asarray(semantic_scores(outputs_of(case), (224, 224)))
    assert found.shape == (1, 2, 224, 224, 1)
    assert case.check("fg_prob", found[0, ..., 0]).max_abs < 1e-4  # of scores up to 40, in the exponent


def test_frames_that_are_not_valid_are_left_empty():
    case = golden.load("vct/infer_s4_384")
    found = np.asarray(semantic_scores(outputs_of(case, (True, False)), (96, 96)))
    assert (found[0, 1] <= 0.5).all() and (found[0, 0] > 0.5).any()
    case = golden.load("vct/infer_avss_384")
    found = np.asarray(semantic_scores(outputs_of(case, (True, False)), (96, 96)))
    assert found.shape == (1, 2, 96, 96, 71) and not found[0, 1].any()
