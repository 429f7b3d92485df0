"""Elementary layers against float64 evaluations, and their fresh parameters against PyTorch's rules."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal, special

from avs_jax.layers import blocks


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def normalised(x, axes, epsilon=1e-5):
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + epsilon)


def test_layer_norm_has_torch_s_epsilon():
    x = 1e-2 * normal(3, 5, 64)  # small enough for the epsilon to count
    layer = blocks.LayerNorm()
    found = layer.apply({"params": {"scale": 2 * np.ones(64), "bias": np.ones(64)}}, np.float32(x))
    np.testing.assert_allclose(found, 2 * normalised(x, -1) + 1, atol=1e-5)


def test_group_norm_has_torch_s_epsilon_and_groups():
    x = 1e-2 * normal(2, 3, 4, 64)
    layer = blocks.GroupNorm()
    found = layer.apply({"params": {"scale": np.ones(64), "bias": np.zeros(64)}}, np.float32(x))
    grouped = normalised(x.reshape(2, 3, 4, 32, 2), (1, 2, 4)).reshape(x.shape)
    np.testing.assert_allclose(found, grouped, atol=1e-5)


@pytest.mark.parametrize("layer", (blocks.LayerNorm, blocks.GroupNorm))
def test_statistics_survive_a_large_mean(layer):
    x = 1000 + normal(1, 16, 64)
    params = {"params": {"scale": np.ones(64), "bias": np.zeros(64)}}
    found = layer().apply(params, np.float32(x))
    expected = normalised(x, -1) if layer is blocks.LayerNorm else normalised(x.reshape(1, 16, 32, 2), (1, 3))
    np.testing.assert_allclose(found, expected.reshape(x.shape), atol=2e-3)


def test_group_norm_of_a_map_whose_cells_are_all_alike():
    """As a padded frame's: the roundings of one long sum would add up, to 2e-5 here."""
    x = np.broadcast_to(normal(64), (1, 56, 56, 64))
    found = blocks.GroupNorm().apply({"params": {"scale": np.ones(64), "bias": np.zeros(64)}}, np.float32(x))
    grouped = normalised(np.float32(x).astype(float).reshape(1, 56, 56, 32, 2), (1, 2, 4)).reshape(x.shape)
    np.testing.assert_allclose(found, grouped, rtol=4e-6, atol=1e-6)


def test_batch_norm_trains_and_evaluates_like_torch():
    x, layer = 3 + 2 * normal(4, 3, 2, 6), blocks.BatchNorm()
    variables = {
        "params": {"scale": np.float32(normal(6, seed=1)), "bias": np.float32(normal(6, seed=2))},
        "batch_stats": {"mean": np.float32(normal(6, seed=3)), "var": np.float32(normal(6, seed=4) ** 2)},
    }
    params, running = variables["params"], variables["batch_stats"]
    found, updated = layer.apply(variables, np.float32(x), True, mutable=["batch_stats"])
    axes = (0, 1, 2)
    np.testing.assert_allclose(found, normalised(x, axes) * params["scale"] + params["bias"], atol=1e-5)
    unbiased = x.var(axes, ddof=1)
    np.testing.assert_allclose(updated["batch_stats"]["mean"], 0.9 * running["mean"] + 0.1 * x.mean(axes), rtol=1e-5)
    np.testing.assert_allclose(updated["batch_stats"]["var"], 0.9 * running["var"] + 0.1 * unbiased, rtol=1e-5)

    found = layer.apply(variables, np.float32(x), False)
    expected = (x - running["mean"]) / np.sqrt(running["var"] + 1e-5) * params["scale"] + params["bias"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_batch_norm_of_bfloat16_has_float32_statistics():
    x = jnp.asarray(100 + normal(64, 8, 8, 4), jnp.bfloat16)
    layer = blocks.BatchNorm(dtype=jnp.bfloat16)
    variables = layer.init(jax.random.key(0), x, True)
    found, updated = layer.apply(variables, x, True, mutable=["batch_stats"])
    assert found.dtype == jnp.bfloat16
    assert updated["batch_stats"]["var"].dtype == jnp.float32
    exact = np.float64(x).var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(updated["batch_stats"]["var"], 0.9 + 0.1 * exact, rtol=1e-3)


@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding", "dilation"), ((3, 1, 1, 1), (3, 2, 1, 1), (3, 1, 2, 2), (1, 2, 0, 1))
)
def test_convolution_equals_correlation(kernel_size, stride, padding, dilation):
    x = normal(2, 7, 6, 4)
    layer = blocks.Conv(6, kernel_size, stride, padding, dilation)
    params = layer.init(jax.random.key(0), np.float32(x))["params"]
    kernel = np.zeros((dilation * (kernel_size - 1) + 1,) * 2 + (4, 6))
    kernel[::dilation, ::dilation] = params["kernel"]
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    expected = np.stack(
        [
            np.stack(
                [
                    sum(signal.correlate(image[..., c], kernel[..., c, out], "valid") for c in range(4))
                    for out in range(6)
                ],
                -1,
            )
            for image in padded
        ]
    )
    found = layer.apply({"params": params}, np.float32(x))
    np.testing.assert_allclose(found, expected[:, ::stride, ::stride] + params["bias"], atol=1e-5)


def test_feed_forward_has_the_exact_gelu():
    x, layer = normal(4, 8), blocks.FeedForward(16)
    params = layer.init(jax.random.key(0), np.float32(x))["params"]
    hidden = x @ np.float64(params["linear1"]["kernel"]) + params["linear1"]["bias"]
    hidden = hidden * 0.5 * (1 + special.erf(hidden / np.sqrt(2)))
    expected = hidden @ np.float64(params["linear2"]["kernel"]) + params["linear2"]["bias"]
    np.testing.assert_allclose(layer.apply({"params": params}, np.float32(x)), expected, atol=1e-5)


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    x = jnp.ones((4000, 2, 3))
    layer = blocks.DropPath()
    dropped = jax.jit(lambda rate: layer.apply({}, x, rate, rngs={"dropout": jax.random.key(0)}))(0.25)
    values = np.unique(np.asarray(dropped).reshape(4000, -1), axis=0)
    np.testing.assert_allclose(values, [[0] * 6, [4 / 3] * 6], rtol=1e-6)
    np.testing.assert_allclose(np.mean(dropped), 1, atol=0.03)
    np.testing.assert_array_equal(layer.apply({}, x, None), x)


def uniform_within(array, bound):
    """Whether a large array looks uniform within +-bound."""
    array = np.abs(np.asarray(array))
    return 0.97 * bound < array.max() <= bound and abs(array.mean() / bound - 0.5) < 0.05


def test_fresh_parameters_are_torch_s():
    dense = blocks.Dense(500).init(jax.random.key(0), jnp.zeros((1, 64)))["params"]
    assert all(uniform_within(leaf, 1 / np.sqrt(64)) for leaf in dense.values())
    conv = blocks.Conv(500, 3).init(jax.random.key(0), jnp.zeros((1, 4, 4, 4)))["params"]
    assert conv["kernel"].shape == (3, 3, 4, 500)
    assert all(uniform_within(leaf, 1 / np.sqrt(36)) for leaf in conv.values())


def test_xavier_counts_the_receptive_field_and_what_torch_stacks():
    key = jax.random.key(0)
    assert uniform_within(blocks.xavier_uniform()(key, (40, 60)), np.sqrt(6 / 100))
    assert uniform_within(blocks.xavier_uniform()(key, (3, 3, 40, 60)), np.sqrt(6 / 900))
    assert uniform_within(blocks.xavier_uniform(3)(key, (40, 40)), np.sqrt(6 / 160))


@pytest.mark.parametrize(("size", "stride", "padding", "shape"), [(3, 2, 1, (2, 9, 12, 3)), (2, 2, 0, (1, 6, 5, 2))])
def test_max_pool_and_its_gradient_are_those_of_a_window_reduction(size, stride, padding, shape):
    x = jnp.asarray(np.round(normal(*shape)), jnp.float32)  # many equal values: the first one gets the gradient

    def reference(x):
        edges = ((padding, padding),) * 2
        return nn.max_pool(x, (size, size), strides=(stride, stride), padding=edges)

    found, gradient = jax.vjp(lambda x: blocks.max_pool(x, size, stride, padding), x)
    expected, expected_gradient = jax.vjp(reference, x)
    np.testing.assert_array_equal(found, expected)
    cotangent = jnp.asarray(normal(*expected.shape, seed=1), jnp.float32)
    np.testing.assert_allclose(gradient(cotangent)[0], expected_gradient(cotangent)[0], atol=1e-6)
