"""The heads of an attention: cut out of the channels, and set one after the other for loops that take one at a time."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def split_heads(x: jax.Array, num_heads: int) -> jax.Array:
    """(..., D) -> (..., heads, D / heads)."""
    return x.reshape(*x.shape[:-1], num_heads, x.shape[-1] // num_heads)


def merge_heads(x: jax.Array) -> jax.Array:
    """(..., heads, d) -> (..., heads d): the inverse of `split_heads`."""
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


def unfold_heads(x: jax.Array) -> jax.Array:
    """(N, L, heads, ...) -> (N heads, L, ...): all heads of the first frame, then those of the second."""
    frames, length, heads = x.shape[:3]
    return jnp.moveaxis(x, 2, 1).reshape(frames * heads, length, *x.shape[3:])


def fold_heads(x: jax.Array, num_heads: int) -> jax.Array:
    """(N heads, L, d) -> (N, L, heads, d): the inverse of `unfold_heads`."""
    return jnp.moveaxis(x.reshape(len(x) // num_heads, num_heads, *x.shape[1:]), 1, 2)
