"""Dropout by hashes: how much it drops, that layers, steps and places are independent, and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax.layers import attention, dropout

SHAPE = (40, 50, 60)


def mask(key, rate=0.1, shape=SHAPE):
    """Where elements are dropped."""
    out = dropout.Dropout(rate).apply({}, jnp.ones(shape), False, rngs={"dropout": jax.random.key(key)})
    assert set(np.unique(out)) == {np.float32(0), np.float32(1 / (1 - rate))}
    return np.asarray(out) == 0


def assert_correlation_is_that_of_chance(one, other):
    found = np.corrcoef(one.ravel(), other.ravel())[0, 1]
    assert abs(found) < 4.5 / np.sqrt(one.size)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_it_drops_that_share_along_every_axis(rate):
    dropped = mask(0, rate)
    for axes in ((), (0, 1), (0, 2), (1, 2)):
        share = dropped.mean(axes or None)
        count = dropped.size / np.size(share)
        assert np.all(np.abs(share - rate) < 4.5 * np.sqrt(rate * (1 - rate) / count))


def test_masks_of_other_keys_and_places_are_independent():
    one = mask(0)
    for other in (mask(1), mask(2)):
        assert_correlation_is_that_of_chance(one, other)
    for shift in range(1, 20):
        assert_correlation_is_that_of_chance(one, np.roll(one.ravel(), shift))
    for axis in range(3):
        assert_correlation_is_that_of_chance(one, np.roll(one, 1, axis))


def test_hashes_are_uniform():
    found = np.asarray(dropout.hashes((200_000,), jnp.uint32([7, 9])))
    counts = np.bincount(found >> 24, minlength=256)
    assert ((counts - found.size / 256) ** 2 / (found.size / 256)).sum() < 350  # chi-square, 255 degrees: 1 in 25,000
    bits = (found[:, None] >> np.arange(32, dtype=np.uint32)) & 1
    assert np.all(np.abs(bits.mean(0) - 0.5) < 0.005)


def test_the_gradient_is_the_masks():
    x = jax.random.normal(jax.random.key(3), (30, 20))
    seed = jnp.uint32([5, 6])
    gradient = jax.grad(lambda x: jnp.sum(dropout.drop(x, 0.3, seed) * 2))(x)
    np.testing.assert_array_equal(gradient, np.where(dropout.drop(x, 0.3, seed) == 0, 0, np.float32(2 / 0.7)))


def test_nothing_drops_where_nothing_shall():
    x = jnp.ones((3, 4))
    assert dropout.Dropout(0.1).apply({}, x, True) is x
    assert dropout.Dropout(0.0).apply({}, x, False) is x


def accelerators_form(query, key, value, rate=0.0, seed=None):
    return attention._attend(query, key, value, None, seed, rate)


@pytest.mark.parametrize("form", (attention.attend, accelerators_form), ids=("this platform's", "accelerators'"))
def test_attention_drops_weights_and_leaves_the_rest_as_it_is(form):
    draw = np.random.default_rng(0)
    query, key = (jnp.asarray(draw.standard_normal((2, length, 4, 8)), jnp.float32) for length in (6, 300))
    value = jnp.ones((2, 300, 4, 1))  # the sum of the weights that stay
    seeds = jax.random.bits(jax.random.key(0), (200, 2), jnp.uint32)
    sums = jax.vmap(lambda seed: form(query, key, value, rate=0.2, seed=seed))(seeds)
    np.testing.assert_allclose(form(query, key, value), 1, rtol=1e-5)
    assert sums.std() > 0.01
    np.testing.assert_allclose(sums.mean(0), 1, atol=0.03)
    assert_correlation_is_that_of_chance(np.asarray(sums[:, 0] - 1), np.asarray(sums[:, 1] - 1))
