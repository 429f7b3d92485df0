"""Products of several layers in another order: the same numbers, up to rounding, with fewer operations."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from avs_jax.layers.products import matmul
from avs_jax.layers.resize import interpolation_matrix


def upsampled_conv(x: jax.Array, kernel: jax.Array, scale: int) -> jax.Array:
    """A 3x3 convolution, one zero on every side, of x upsampled bilinearly: (N, h, w, C) -> (N, s h, s w, C').

    Both are linear, so the nine taps mix channels before the upsampling, which then also moves each tap to its place:
    two products with small matrices.

    Args:
      x: maps (N, h, w, C).
      kernel: (3, 3, C, C').
      scale: s, how many times larger the result is on each side.
    """
    n, h, w, _ = x.shape
    outputs = kernel.shape[-1]
    mixed = matmul(x, kernel.transpose(2, 0, 1, 3).reshape(x.shape[-1], 9 * outputs))
    mixed = mixed.reshape(n, h, w, 3, 3, outputs).transpose(0, 1, 3, 2, 4, 5).reshape(n, 3 * h, 3 * w, outputs)
    columns, rows = (_shifted_upsampling(size, scale).astype(x.dtype) for size in (w, h))
    wide = jnp.einsum("nhkc,xk->nhxc", mixed, columns)  # (N, 3 h, s w, C')
    return (rows @ wide.reshape(n, 3 * h, -1)).reshape(n, scale * h, scale * w, outputs)


def _shifted_upsampling(size: int, scale: int) -> np.ndarray:
    """(s size, 3 size): upsampling for each of three taps (innermost), shifted to the tap's place, zeros outside."""
    upsampling = np.pad(interpolation_matrix(size, scale * size), ((1, 1), (0, 0)))
    taps = [upsampling[tap : tap + scale * size] for tap in range(3)]
    return np.stack(taps, -1).reshape(scale * size, 3 * size)


def attend_once(query: jax.Array, memory: jax.Array, key_kernel: jax.Array, value_kernel: jax.Array) -> jax.Array:
    """softmax(q k^T / sqrt(d)) v of one query a frame, k and v being linear in a memory: -> (N, heads, d).

    With a single query the key's kernel can go to it, and the value's to what it has found, in place of all tokens.

    Args:
      query: (N, heads, d).
      memory: (N, K, C).
      key_kernel, value_kernel: (C, heads, d).
    """
    accumulate = jnp.promote_types(query.dtype, jnp.float32)
    query = jnp.einsum("nhd,chd->nhc", query * (1 / math.sqrt(query.shape[-1])), key_kernel)
    logits = jnp.einsum("nkc,nhc->nhk", memory, query, preferred_element_type=accumulate)
    weights = jax.nn.softmax(logits, axis=-1).astype(memory.dtype)
    return jnp.einsum("nhc,chd->nhd", jnp.einsum("nhk,nkc->nhc", weights, memory), value_kernel)
