"""Bilinear resizing against scipy's interpolation in float64."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from avs_jax.layers.resize import resize_bilinear


def expected(x, size):
    """Reads x (N, h, w, C) at the pixel centres of the new size; beyond the last centre the edge goes on."""
    grid = np.indices(size) + 0.5
    grid = grid * (np.array(x.shape[1:3]) / size)[:, None, None] - 0.5
    read = [
        [ndimage.map_coordinates(image[..., c], grid, order=1, mode="nearest") for c in range(x.shape[-1])]
        for image in x
    ]
    return np.moveaxis(np.array(read), 1, -1)


@pytest.mark.parametrize("size", ((20, 28), (13, 9), (5, 21), (3, 4), (5, 7)), ids=str)
def test_resizing_up_and_down(size):
    x = np.random.default_rng(0).standard_normal((2, 5, 7, 3))
    np.testing.assert_allclose(resize_bilinear(np.float32(x), size), expected(x, size), atol=1e-5)


def test_leading_axes_and_type_are_kept():
    resized = resize_bilinear(jnp.ones((2, 3, 4, 4, 5), jnp.bfloat16), (8, 12))
    assert resized.shape == (2, 3, 8, 12, 5)
    assert resized.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.float32(resized), 1.0)
