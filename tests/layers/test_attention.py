"""Multi-head attention against a float64 evaluation of its definition."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax.layers import attention
from avs_jax.layers.attention import MultiHeadAttention

HEADS = 4


def expected(params, query, key, value, mask=None):
    def project(name, x):
        return x @ np.float64(params[name]["kernel"]) + np.float64(params[name].get("bias", 0))

    q, k, v = project("query", query), project("key", key), project("value", value)
    width = q.shape[-1] // HEADS
    heads = []
    for head in range(HEADS):
        part = slice(head * width, (head + 1) * width)
        logits = q[..., part] @ k[..., part].swapaxes(-1, -2) / np.sqrt(width)
        weights = np.exp(logits if mask is None else np.where(mask, logits, -np.inf))
        heads.append(weights / weights.sum(-1, keepdims=True) @ v[..., part])
    return project("out", np.concatenate(heads, -1))


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    return tuple(rng.standard_normal((2, length, 32)).astype(np.float32) for length in (5, 7, 7))


def random_params(module, inputs):
    params = module.init(jax.random.key(0), *inputs)["params"]
    leaves, structure = jax.tree.flatten(params)
    rng = np.random.default_rng(1)
    return jax.tree.unflatten(structure, [rng.standard_normal(x.shape).astype(np.float32) / 4 for x in leaves])


@pytest.mark.parametrize("use_bias", (True, False))
def test_attention_equals_its_definition(inputs, use_bias):
    module = MultiHeadAttention(HEADS, use_bias)
    params = random_params(module, inputs)
    assert ("bias" in params["query"]) == use_bias
    np.testing.assert_allclose(module.apply({"params": params}, *inputs), expected(params, *inputs), atol=2e-5)


def test_a_mask_leaves_out_keys(inputs):
    module = MultiHeadAttention(HEADS)
    params = random_params(module, inputs)
    mask = np.random.default_rng(2).random((2, 5, 7)) < 0.5
    mask[:, :, 3] = True
    found = module.apply({"params": params}, *inputs, mask[:, None])
    np.testing.assert_allclose(found, expected(params, *inputs, mask), atol=2e-5)


def test_bfloat16_has_a_float32_softmax(inputs):
    """Logits of a few hundred differ by single units: rounded to bfloat16 they would tie."""
    query = 16 * np.ones((1, 1, 32), np.float32)
    key = np.stack([np.ones(32), np.ones(32)]).astype(np.float32)[None]
    key[0, 1, 0] += 0.0625
    value = np.stack([np.zeros(32), np.ones(32)]).astype(np.float32)[None]
    identity = {name: {"kernel": np.eye(32, dtype=np.float32)} for name in ("query", "key", "value", "out")}
    module = MultiHeadAttention(1, use_bias=False, dtype=jnp.bfloat16)
    found = module.apply({"params": identity}, query, key, value)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(found), 1 / (1 + np.exp(-1 / np.sqrt(32))), atol=4e-3)


def test_dropout_acts_on_the_weights(inputs):
    module = MultiHeadAttention(HEADS, dropout=0.5)
    query, key, _ = inputs
    params = random_params(module, inputs)
    params["value"] = {"kernel": np.zeros((32, 32), np.float32), "bias": np.ones(32, np.float32)}
    params["out"] = {"kernel": np.eye(32, dtype=np.float32), "bias": np.zeros(32, np.float32)}
    module_input = {"params": params}, query, key, key
    np.testing.assert_allclose(module.apply(*module_input), 1, atol=1e-6)  # the weights of a query sum to one
    dropped = module.apply(*module_input, deterministic=False, rngs={"dropout": jax.random.key(0)})
    assert np.std(dropped) > 0.1  # what is left of them does not, by head and query
    np.testing.assert_allclose(dropped.reshape(2, 5, HEADS, 8).std(-1), 0, atol=1e-6)


def test_fresh_projections_are_one_xavier_matrix(inputs):
    params = MultiHeadAttention(HEADS).init(jax.random.key(0), *inputs)["params"]
    for name, fan_out in (("query", 96), ("key", 96), ("value", 96), ("out", 32)):
        bound = np.sqrt(6 / (32 + fan_out))
        assert 0.95 * bound < np.max(np.abs(params[name]["kernel"])) <= bound, name
        assert not np.any(params[name]["bias"])


@pytest.mark.parametrize("masked", [False, True])
def test_both_forms_of_attention_agree(masked):
    rng = np.random.default_rng(3)
    query, key, value = (jnp.asarray(rng.standard_normal((3, n, 2, 4)), jnp.float32) for n in (5, 7, 7))
    mask = jnp.asarray(rng.random((3, 2, 5, 7)) < 0.6).at[..., 0].set(True) if masked else None
    weights = jnp.asarray(rng.standard_normal(query.shape), jnp.float32)

    def results(form):
        return jax.value_and_grad(lambda q, k, v: jnp.sum(form(q, k, v, mask, None, 0.0) * weights), (0, 1, 2))(
            query, key, value
        )

    one, other = results(attention._attend), results(attention._attend_looped)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6, rtol=2e-5), one, other)
