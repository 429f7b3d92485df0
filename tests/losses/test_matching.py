"""Matching against scipy's solver, with padding and bad numbers; points against a float64 evaluation."""

from __future__ import annotations

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from avs_jax.losses import points
from avs_jax.losses.matching import match, matching_costs


def optimum(costs):
    return costs[scipy.optimize.linear_sum_assignment(costs)].sum()


@pytest.mark.parametrize("shape", ((12, 5), (6, 6), (30, 1)))
def test_matching_costs_as_little_as_scipys(shape):
    rng = np.random.default_rng(0)
    costs = rng.normal(size=(2, 4, *shape)).astype(np.float32)
    valid = rng.random((2, 4, shape[1])) < 0.6
    matched = np.asarray(jax.jit(match)(costs, valid))
    assert matched.shape == valid.shape
    for place in np.ndindex(2, 4):
        queries = matched[place][valid[place]]
        assert len(set(queries)) == len(queries)
        found = costs[place][queries, np.flatnonzero(valid[place])].sum()
        np.testing.assert_allclose(found, optimum(costs[place][:, valid[place]]), rtol=1e-5, atol=1e-6)


def test_padding_changes_no_match():
    costs = np.random.default_rng(1).normal(size=(3, 9, 4)).astype(np.float32)
    padded = np.concatenate([costs, np.full((3, 9, 3), -100, np.float32)], -1)
    found = match(padded, np.arange(7) < np.full((3, 1), 4))
    np.testing.assert_array_equal(found[:, :4], match(costs, np.ones((3, 4), bool)))


def test_costs_that_are_no_numbers_end_in_some_matching():
    costs = np.full((2, 6, 3), np.nan, np.float32)
    costs[1, :, 1] = np.inf
    for queries in np.asarray(match(costs, np.ones((2, 3), bool))):
        assert len(set(queries)) == 3


def test_more_targets_than_queries_are_refused():
    with pytest.raises(ValueError, match="4 targets cannot be matched with 3 queries"):
        match(np.zeros((3, 4)), np.ones(4, bool))


def test_costs_are_the_losses_of_every_pair():
    rng = np.random.default_rng(2)
    logits, masks = rng.normal(size=(5, 4)), 3 * rng.normal(size=(50, 5))
    targets, labels = rng.random((50, 2)), np.array([2, 0])
    config = types.SimpleNamespace(class_weight=2.0, mask_weight=3.0, dice_weight=4.0)
    found = matching_costs(*(np.float32(x) for x in (logits, masks)), labels, np.float32(targets), config)
    for query, target in np.ndindex(5, 2):
        x, t = masks[:, query], targets[:, target]
        p = 1 / (1 + np.exp(-x))
        probability = np.exp(logits[query])[labels[target]] / np.exp(logits[query]).sum()
        cross_entropy = -np.mean(t * np.log(p) + (1 - t) * np.log(1 - p))
        dice = 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
        expected = -2 * probability + 3 * cross_entropy + 4 * dice
        np.testing.assert_allclose(found[query, target], expected, rtol=1e-5)


def test_samples_are_bilinear_and_zero_outside():
    maps = np.random.default_rng(3).normal(size=(2, 4, 6, 3)).astype(np.float32)
    at = np.random.default_rng(4).random((2, 40, 2)).astype(np.float32)
    at[0, :4] = [[0, 0], [1, 1], [0, 1], [1, 0]]  # corners: a quarter of the cell
    found = np.asarray(points.sample(maps, at))
    padded = np.pad(np.float64(maps), ((0, 0), (1, 1), (1, 1), (0, 0)))
    for frame, point in np.ndindex(2, 40):
        x, y = at[frame, point].astype(np.float64) * (6, 4) + 0.5  # in the padded map
        rows, columns = (np.maximum(0, 1 - np.abs(np.arange(n) - place)) for n, place in ((6, y), (8, x)))
        expected = np.einsum("hwc,h,w->c", padded[frame], rows, columns)
        np.testing.assert_allclose(found[frame, point], expected, atol=1e-5)


def test_uncertain_points_are_those_with_logits_nearest_to_zero():
    ramp = np.broadcast_to(np.linspace(-4, 4, 8, dtype=np.float32), (1, 8, 8))
    candidates = np.stack([np.linspace(0.1, 0.9, 20), np.full(20, 0.5)], -1)[None].astype(np.float32)
    plain = np.full((1, 3, 2), 0.05, np.float32)
    found = np.asarray(points.loss_points(jnp.array(ramp), candidates, plain, 4))
    assert found.shape == (1, 7, 2)
    np.testing.assert_allclose(np.sort(found[0, :4, 0]), candidates[0, 8:12, 0])
    np.testing.assert_array_equal(found[0, 4:], plain[0])


def test_drawn_points():
    config = types.SimpleNamespace(num_points=64, oversample=3.0, importance=0.75)
    draws = points.draw(jax.random.key(0), 2, 3, config)
    assert [x.shape for x in draws] == [(2, 64, 2), (2, 3, 192, 2), (2, 3, 16, 2)]
    for drawn in draws:
        assert 0 <= drawn.min() and drawn.max() < 1 and abs(drawn.mean() - 0.5) < 0.1
