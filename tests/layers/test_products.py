"""Products and convolutions, and their gradients on each platform, against JAX's own in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax.layers import products


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def other_platforms(*arguments, cpu, default):
    return default(*arguments)


def check_gradients(found, expected, arguments, monkeypatch):
    """Results and gradients of `found` are those of `expected`, in the form for CPUs and in that for others."""

    def results(function):
        outputs = jax.eval_shape(function, *arguments)
        values, gradients = jax.vjp(function, *arguments)
        return values, *gradients(normal(*outputs.shape, seed=9))

    wanted = results(expected)
    for given in (
        results(found),
        monkeypatch.setattr(jax.lax, "platform_dependent", other_platforms) or results(found),
    ):
        for a, b in zip(given, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * np.abs(b).max())


@pytest.mark.parametrize(
    ("x", "kernel", "product"),
    [
        ((7, 5), (5, 9), "rc,cd->rd"),
        ((2, 3, 4, 9), (9, 5), "nhwc,cd->nhwd"),
        ((2, 3, 4, 5), (2, 5, 9), "nhwc,ncd->nhwd"),
        ((2, 7, 9), (2, 9, 5), "nrc,ncd->nrd"),
        ((5,), (5, 3), "c,cd->d"),
        ((2, products.MANY + 1), (products.MANY + 1, products.MANY + 2), "rc,cd->rd"),
    ],
)
def test_matmul(x, kernel, product, monkeypatch):
    arguments = normal(*x), normal(*kernel, seed=1)
    check_gradients(products.matmul, lambda *both: jnp.einsum(product, *both), arguments, monkeypatch)


@pytest.mark.parametrize("channels", (3, products.FEW))
@pytest.mark.parametrize(
    ("size", "stride", "padding", "dilation"),
    [(3, 1, 1, 1), (3, 2, 1, 1), (3, 1, 6, 6), (3, 1, 0, 1), (7, 4, 3, 1), (2, 2, 0, 1), (1, 2, 0, 1), (1, 1, 1, 1)],
)
def test_conv2d(channels, size, stride, padding, dilation, monkeypatch):
    def expected(x, kernel):
        pads, dimensions = ((padding, padding),) * 2, ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), pads, rhs_dilation=(dilation, dilation), dimension_numbers=dimensions
        )

    def found(x, kernel):
        return products.conv2d(x, kernel, stride, padding, dilation)

    arguments = normal(2, 9, 12, channels), normal(size, size, channels, 5, seed=1)
    check_gradients(found, expected, arguments, monkeypatch)


def test_gradients_have_the_arguments_types():
    x, kernel = jnp.ones((4, 3), jnp.bfloat16), jnp.ones((3, 2), jnp.bfloat16)
    gradients = jax.grad(lambda *both: products.matmul(*both).sum(), (0, 1))(x, kernel)
    assert [gradient.dtype for gradient in gradients] == [jnp.bfloat16] * 2
