"""Gradients of weights first: the same gradients, computed in an order that holds less."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax.compiler import training_options
from avs_jax.layers import order

DEPTH, ROWS, WIDTH = 6, 256, 64


def head(weights, x):
    for kernel in weights:
        x = jnp.sin(x @ kernel)
    return x


class Head(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dropout(0.5, deterministic=not self.has_rng("dropout"))(x)
        x = nn.Dense(8)(jnp.sin(nn.Dense(16)(x)))
        self.sow("intermediates", "last", x)
        return x


class Model(nn.Module):
    ordered: bool

    @nn.compact
    def __call__(self, x):
        call = order.parameters_first(Head.__call__) if self.ordered else Head.__call__
        return call(Head(name="head"), x)


def array(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) / np.sqrt(shape[-1]), jnp.float32)


def test_gradients_of_weights_and_inputs_are_the_same():
    weights, inputs = [array(8, 8, seed=i) for i in range(3)], array(5, 8, seed=9)
    expected, found = (
        jax.jit(jax.grad(lambda *x, f=f: jnp.sum(f(*x) ** 2), argnums=(0, 1)))(weights, inputs)
        for f in (head, order.weights_first(head))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), found, expected)


@pytest.mark.parametrize("rngs", [{}, {"dropout": jax.random.key(3)}])
def test_a_module_has_the_same_parameters_gradients_and_intermediates(rngs):
    x = array(5, 8)
    results = []
    for ordered in (False, True):
        model = Model(ordered)
        variables = model.init(jax.random.key(0), x)

        def loss(params, x, model=model):
            y, state = model.apply({"params": params}, x, rngs=rngs, mutable=["intermediates"])
            return jnp.sum(y**2), state

        results.append((variables, jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(variables["params"], x)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), *results)


def test_what_weights_gradients_are_made_of_is_let_go():
    """A head's activations, while a backbone with a large state of its own passes the gradient on."""

    def planned(head):
        def loss(weights, stacked, x):
            def layer(x, kernel):
                return jnp.sin(x @ kernel), None

            return jnp.sum(head(weights, jax.lax.scan(layer, x, stacked)[0]))

        arguments = [array(WIDTH, WIDTH)] * DEPTH, array(64, WIDTH, WIDTH), array(ROWS, WIDTH)
        compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*arguments).compile(training_options("cpu"))
        return compiled.memory_analysis().temp_size_in_bytes

    activation = ROWS * WIDTH * 4
    assert planned(order.weights_first(head)) <= planned(head) - activation
