"""Bilinear resizing of maps as two small matrix products: between pixel centres, or corner to corner."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def interpolation_matrix(size: int, target: int, align_corners: bool = False) -> np.ndarray:
    """The (target, size) float64 matrix of linear interpolation, as PyTorch places the target's pixels.

    They lie by their centres and are clamped at the edges; or with `align_corners`, evenly from the first pixel to the
    last.
    """
    if align_corners:
        places = np.linspace(0, size - 1, target)
    else:
        places = np.clip((np.arange(target) + 0.5) * (size / target) - 0.5, 0, size - 1)
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(size)))


def resize_bilinear(x: jax.Array, size: tuple[int, int], align_corners: bool = False) -> jax.Array:
    """Resizes x (..., h, w, C) to (..., *size, C). Two neighbours an axis also when shrinking: no anti-aliasing."""

    def matrix(length: int, target: int) -> np.ndarray:
        return interpolation_matrix(length, target, align_corners).astype(x.dtype)

    height, width = x.shape[-3:-1]
    if height != size[0]:
        x = jnp.einsum("...hwc,yh->...ywc", x, matrix(height, size[0]))
    if width != size[1]:
        x = jnp.einsum("...hwc,xw->...hxc", x, matrix(width, size[1]))
    return x
