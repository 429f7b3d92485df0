"""Bilinear resizing of maps by pixel centres (PyTorch's align_corners=False), as two small matrix products."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def interpolation_matrix(size: int, target: int) -> np.ndarray:
    """The (target, size) float64 matrix of linear interpolation between pixel centres, clamped at the edges."""
    centres = np.clip((np.arange(target) + 0.5) * (size / target) - 0.5, 0, size - 1)
    return np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(size)))


def resize_bilinear(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Resizes x (..., h, w, C) to (..., *size, C). Two neighbours an axis also when shrinking: no anti-aliasing."""
    height, width = x.shape[-3:-1]
    if height != size[0]:
        x = jnp.einsum("...hwc,yh->...ywc", x, interpolation_matrix(height, size[0]).astype(x.dtype))
    if width != size[1]:
        x = jnp.einsum("...hwc,xw->...hxc", x, interpolation_matrix(width, size[1]).astype(x.dtype))
    return x
