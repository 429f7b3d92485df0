"""The orders of products that save operations, against the plain ones, in float64."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax.layers import reduced
from avs_jax.layers.attention import MultiHeadAttention, attend
from avs_jax.layers.products import conv2d
from avs_jax.layers.resize import resize_bilinear
from avs_jax.models.avsegformer import ChannelMixer, MaskPredictor


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def assert_equal_with_gradients(one, other, *arguments):
    """Both functions, and their gradients for every argument, are equal to 12 digits."""
    np.testing.assert_allclose(one(*arguments), other(*arguments), atol=1e-12)
    weights = draw(99, *jax.eval_shape(one, *arguments).shape)
    everything = tuple(range(len(arguments)))
    gradients = [jax.grad(lambda *a, f=f: jnp.sum(f(*a) * weights), everything)(*arguments) for f in (one, other)]
    for mine, theirs in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-11)


@pytest.mark.parametrize("size, scale", [((5, 7), 4), ((1, 3), 4), ((4, 2), 2), ((3, 3), 1)])
def test_upsampled_convolution(size, scale):
    def plain(x, kernel):
        return conv2d(resize_bilinear(x, (scale * size[0], scale * size[1])), kernel, padding=1)

    def mine(x, kernel):
        return reduced.upsampled_conv(x, kernel, scale)

    assert_equal_with_gradients(mine, plain, draw(0, 2, *size, 6), draw(1, 3, 3, 6, 5))


def test_one_query_over_linear_keys_and_values():
    def plain(query, memory, key, value):
        keys, values = (jnp.einsum("nkc,chd->nkhd", memory, kernel) for kernel in (key, value))
        return attend(query[:, None], keys, values)[:, 0]

    arguments = draw(0, 3, 2, 4), draw(1, 3, 9, 8), draw(2, 8, 2, 4), draw(3, 8, 2, 4)
    assert_equal_with_gradients(reduced.attend_once, plain, *arguments)


def test_attention_over_a_single_key_is_what_it_is_over_two_equal_ones():
    attention = MultiHeadAttention(2, dtype=jnp.float64)
    query, token = draw(0, 3, 5, 8), draw(1, 3, 1, 8)
    twice = jnp.concatenate([token, token], 1)
    params = jax.tree.map(lambda x: draw(x.size, *x.shape), attention.init(jax.random.key(0), query, token, token))
    one = attention.apply(params, query, token, token)
    np.testing.assert_allclose(one, attention.apply(params, query, twice, twice), atol=1e-12)
    gradients = jax.grad(lambda p: attention.apply(p, query, token, token).sum())(params)["params"]
    assert not jnp.any(gradients["query"]["kernel"]) and not jnp.any(gradients["key"]["kernel"])


@pytest.mark.parametrize("variant", ["released", "paper"])
def test_the_mixer(variant):
    modules = [ChannelMixer(2, variant, jnp.float64, is_reduced) for is_reduced in (True, False)]
    assert_modules_equal(modules, draw(0, 2, 3, 4, 8), draw(1, 2, 1, 8))


@pytest.mark.parametrize("classes", [1, 3])
def test_the_predictor(classes):
    def config(is_reduced):
        sizes = {"num_queries": 5, "mlp_dim": 16, "tail_dims": (6, 4), "num_classes": classes}
        return types.SimpleNamespace(dtype="float64", reduced=is_reduced, **sizes)

    assert_modules_equal([MaskPredictor(config(r)) for r in (True, False)], draw(0, 2, 3, 4, 8), draw(1, 2, 5, 8))


def assert_modules_equal(modules, *inputs):
    """Equal trees of parameters, and for equal parameters equal results and gradients."""
    trees = [module.init(jax.random.key(0), *inputs) for module in modules]
    assert jax.tree.map(jnp.shape, trees[0]) == jax.tree.map(jnp.shape, trees[1])
    params = jax.tree.map(lambda x: draw(x.size, *x.shape), trees[0])
    assert_equal_with_gradients(*[module.apply for module in modules], params, *inputs)
