"""Whatever is kept for the backward pass, the gradients are the same; and less is kept, policy by policy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax.layers import blocks, remat


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        hidden = nn.Dense(64)(x)
        return x + nn.Dense(8)(jnp.sin(hidden) * (2.0 if train else 1.0))


class Part(nn.Module):
    @nn.compact
    def __call__(self, x):
        return jnp.sin(nn.Dense(64)(x))


class Model(nn.Module):
    policy: str

    @nn.compact
    def __call__(self, x):
        block = remat.block(Block, self.policy, static_argnums=(2,))
        for i in range(3):
            x = block(name=f"block_{i}")(x, True)
        return remat.part(Part, self.policy)(name="part")(x)


def loss(policy, x):
    return lambda params: jnp.sum(Model(policy).apply(params, x) ** 2)


@pytest.fixture(scope="module")
def setting():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(32, 8)), jnp.float32)
    return x, Model("none").init(jax.random.key(0), x)


def kept_bytes(policy, x, params):
    _, backward = jax.vjp(loss(policy, x), params)
    given = {id(leaf) for leaf in jax.tree.leaves((params, x))}
    return sum(leaf.nbytes for leaf in jax.tree.leaves(backward) if id(leaf) not in given)


@pytest.mark.parametrize("policy", remat.POLICIES[1:])
def test_gradients_are_the_same(setting, policy):
    x, params = setting
    expected, found = (jax.jit(jax.grad(loss(name, x)))(params) for name in ("none", policy))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), expected, found)


def test_each_policy_keeps_less(setting):
    kept = [kept_bytes(policy, *setting) for policy in remat.POLICIES]
    assert kept == sorted(kept, reverse=True) and len(set(kept)) == len(kept), kept


def test_dots_keeps_no_product_that_is_not_to_be_kept():
    class Twice(nn.Module):
        kept: bool

        @nn.compact
        def __call__(self, x):
            return nn.Dense(8)(jnp.sin(blocks.Dense(64, kept=self.kept)(x)))

    x, (kept, unkept) = jnp.ones((32, 8)), (remat.block(Twice, "dots")(kept) for kept in (True, False))
    params = kept.init(jax.random.key(0), x)

    def found(model):
        loss, backward = jax.vjp(lambda params: jnp.sum(model.apply(params, x)), params)
        return backward(loss), sum(leaf.nbytes for leaf in jax.tree.leaves(backward))

    (gradients, with_it), (same, without) = found(kept), found(unkept)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), same, gradients)
    assert with_it - without == 32 * 64 * 4


def test_an_unknown_policy_is_named():
    with pytest.raises(ValueError, match="model.remat is 'all'; it must be one of none, dots, blocks, full"):
        remat.block(Block, "all")
