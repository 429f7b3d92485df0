"""A loop over elements computes, and has the gradients, of the same function of all elements at once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from avs_jax.layers.heads import merge_heads, split_heads
from avs_jax.layers.loops import head_by_head, one_by_one


def test_a_loop_is_the_vectorised_function_with_its_gradients():
    numbers = np.random.default_rng(0)
    with jax.enable_x64(True):
        kernel, x, constants = (numbers.standard_normal(shape) for shape in ((3, 4), (5, 2, 3), (5, 4)))

        def function(shared, one, constant):
            return jnp.tanh(one["x"] @ shared) * constant

        def looped(kernel, x):
            return one_by_one(function, kernel, {"x": x}, constants)

        def at_once(kernel, x):
            return jax.vmap(function, (None, 0, 0))(kernel, {"x": x}, constants)

        found, backward = jax.vjp(looped, kernel, x)
        expected, expected_backward = jax.vjp(at_once, kernel, x)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        gradient = numbers.standard_normal(found.shape)
        for mine, theirs in zip(backward(gradient), expected_backward(gradient), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12)


def test_the_backward_pass_keeps_the_arguments_alone():
    x = jnp.ones((5, 64))
    _, backward = jax.vjp(lambda x: one_by_one(lambda _, one, constant: jnp.sin(jnp.sin(one)), (), x), x)
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(backward)) <= x.nbytes


def test_heads_one_by_one_are_the_vectorised_function_with_its_gradients():
    frames, heads = 2, 3
    numbers = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, y, places, gradient = (numbers.standard_normal((frames, *size)) for size in [(4, 6), (5, 9), (7, 3), (7, 9)])
        places = numbers.integers(0, 4, places.shape)

        def function(x, y, places):  # (4, 2), (5, 3), (7, 1) -> (7, 3)
            return jnp.tanh(x[places[:, 0], :1]) * jnp.sum(y, 0)

        def at_once(x, y):
            parts = (split_heads(z, heads) for z in (x, y, places))
            return merge_heads(jax.vmap(jax.vmap(function, 1, 1))(*parts))

        found, backward = jax.vjp(lambda x, y: head_by_head(function, heads, (x, y), (places,)), x, y)
        expected, expected_backward = jax.vjp(at_once, x, y)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        for mine, theirs in zip(backward(gradient), expected_backward(gradient), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12)
