"""PVT v2's depthwise convolution with GELU, against XLA's own convolution, in float64."""

import jax
import jax.numpy as jnp
import numpy as np

from avs_jax.backbones.pvt_v2 import depthwise_gelu


def _reference(x, taps):
    c = x.shape[-1]
    y = jax.lax.conv_general_dilated(
        x,
        taps[:9].reshape(3, 3, 1, c),
        (1, 1),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=c,
    )
    return jax.nn.gelu(y + taps[9], approximate=False)


def test_values_and_gradients_are_those_of_a_grouped_convolution_and_gelu():
    random = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, cotangent = (jnp.asarray(random.normal(size=(2, 5, 4, 6))) for _ in range(2))
        taps = jnp.asarray(random.normal(size=(10, 6)))
        ours, our_gradients = jax.jit(lambda x, taps: jax.vjp(depthwise_gelu, x, taps))(x, taps)
        theirs, their_gradients = jax.vjp(_reference, x, taps)
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-13)
        for mine, other in zip(our_gradients(cotangent), their_gradients(cotangent), strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-11, atol=1e-12)


def test_bfloat16_stays_and_is_near():
    random = np.random.default_rng(1)
    x = jnp.asarray(random.normal(size=(1, 6, 6, 8)), jnp.float32)
    taps = jnp.asarray(random.normal(size=(10, 8)), jnp.float32)
    half = depthwise_gelu(x.astype(jnp.bfloat16), taps.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    full = _reference(x, taps)
    assert np.linalg.norm(half.astype(jnp.float32) - full) <= 2e-2 * np.linalg.norm(full)
