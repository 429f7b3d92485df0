"""Sine position encoding of maps and the reference points of deformable attention."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp


def sine_position_encoding(
    valid: jax.Array, num_feats: int, temperature: float = 10000.0, normalize: bool = False
) -> jax.Array:
    """Encodes the row and column number of every cell of valid (N, H, W) bool as (N, H, W, 2 * num_feats) float32.

    Rows and columns are counted from 1 over valid cells; `normalize` scales the counts to (0, 2 pi]. The first
    `num_feats` channels (an even number) are of the row, the others of the column: sin and cos interleaved, of
    wavelengths from 2 pi to 2 pi `temperature` (DETR).
    """
    wavelength = temperature ** (jnp.arange(num_feats // 2) * 2 / num_feats)
    encoded = []
    for axis in (1, 2):
        count = jnp.cumsum(valid, axis, dtype=jnp.float32)
        if normalize:
            count = count / (jax.lax.slice_in_dim(count, -1, None, axis=axis) + 1e-6) * (2 * math.pi)
        angle = count[..., None] / wavelength
        encoded.append(jnp.stack([jnp.sin(angle), jnp.cos(angle)], -1).reshape(*valid.shape, num_feats))
    return jnp.concatenate(encoded, -1)


def map_position(shape: tuple[int, int], features: int, normalize: bool = True) -> jax.Array:
    """The sine encoding of all cells of a map of (h, w), row by row: (1, h w, features) float32."""
    encoded = sine_position_encoding(jnp.ones((1, *shape), bool), features // 2, normalize=normalize)
    return encoded.reshape(1, -1, features)


def cell_centres(shapes: tuple[tuple[int, int], ...]) -> jax.Array:
    """The centres (S, 2) of the cells of maps with the given (h, w), level by level, as (x, y) in [0, 1]."""

    def centres(height: int, width: int) -> jax.Array:
        y, x = jnp.meshgrid((jnp.arange(height) + 0.5) / height, (jnp.arange(width) + 0.5) / width, indexing="ij")
        return jnp.stack([x, y], -1).reshape(-1, 2)

    return jnp.concatenate([centres(*shape) for shape in shapes])
