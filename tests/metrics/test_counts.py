"""Pixel counts against counting, threshold by threshold."""

from __future__ import annotations

import golden
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax import metrics
from avs_jax.metrics import counts


def test_thresholds_are_the_published_ones_bit_for_bit():
    np.testing.assert_array_equal(counts.THRESHOLDS, golden.load("avsegformer/metrics_binary").stored("thresholds"))


def edge_scores():
    """Every edge, and its two neighbours in float32."""
    edges = counts.EDGES
    return np.unique(np.concatenate([edges, np.nextafter(edges, np.float32(-1)), np.nextafter(edges, np.float32(2))]))


def test_every_float_beside_a_threshold_falls_on_its_side():
    scores = np.clip(edge_scores(), 0, 1)
    masks = np.ones((1, 1, 1, scores.size), np.uint8)
    histogram = metrics.binary_statistics(jnp.asarray(scores.reshape(1, 1, 1, -1, 1)), jnp.asarray(masks))[0, 0]
    reached = np.cumsum(np.asarray(histogram)[1, ::-1])[::-1]
    np.testing.assert_array_equal(reached[counts.CURVE], [(scores >= t).sum() for t in counts.THRESHOLDS])
    assert reached[counts.HALF] == (scores > 0.5).sum()
    assert not histogram[0].any()


def test_histograms_of_frames_with_ignored_pixels():
    rng = np.random.default_rng(0)
    scores = rng.random((2, 3, 5, 7, 1), np.float32)
    masks = rng.choice(np.array([0, 1, 1, 255], np.uint8), (2, 3, 5, 7))
    found = np.asarray(metrics.statistics(scores, masks))
    assert found.shape == (2, 3, 2, 256) and found.dtype == np.int32
    bins = np.searchsorted(counts.EDGES, scores[..., 0], side="right") - 1
    for clip, frame, value in np.ndindex(2, 3, 2):
        chosen = bins[clip, frame][masks[clip, frame] == value]
        np.testing.assert_array_equal(found[clip, frame, value], np.bincount(chosen, minlength=256))


@pytest.mark.parametrize("truth", (0, 1))
def test_what_is_not_a_probability_stays_in_the_outer_bins(truth):
    scores = jnp.array([np.nan, -1.0, 0.0, -np.inf, 2.0, np.inf]).reshape(1, 1, 2, 3, 1)
    found = np.asarray(metrics.binary_statistics(scores, jnp.full((1, 1, 2, 3), truth, jnp.uint8)))[0, 0]
    assert found[truth, 0] == 4 and found[truth, 255] == 2
    assert not found[1 - truth].any()


def test_class_counts_against_counting():
    rng = np.random.default_rng(1)
    scores = rng.random((2, 2, 6, 6, 5), np.float32).round(1)  # with ties
    masks = rng.choice(np.array([0, 1, 2, 4, 255], np.uint8), (2, 2, 6, 6))
    found = np.asarray(metrics.statistics(scores, masks))
    assert found.shape == (2, 2, 4, 5) and found.dtype == np.int32
    predicted = scores.argmax(-1)
    for clip, frame, c in np.ndindex(2, 2, 5):
        kept = masks[clip, frame] != 255
        p, g = (a[clip, frame] == c for a in (predicted, masks))
        expected = [(p & g).sum(), (p & kept).sum(), g.sum(), (p & ~kept).sum()]
        assert found[clip, frame, :, c].tolist() == expected
