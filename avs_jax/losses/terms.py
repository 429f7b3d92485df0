"""Losses of single maps. Each returns one value a map; pixels that are not kept count neither way."""

from __future__ import annotations

import jax
import jax.numpy as jnp

IGNORE = 255  # the index of pixels that are neither object nor background


def dice(probabilities: jax.Array, target: jax.Array, keep: jax.Array) -> jax.Array:
    """Dice loss of each map, with squares in the denominator (AVSegFormer's "IoU loss", as released).

    A map without object has loss 1 (or nearly) and no gradient.

    Args:
      probabilities, target, keep: (..., H, W) float32; the target is 0 or 1, keep is 0 where a pixel is ignored.

    Returns:
      (...,) float32 in [0, 1].
    """
    probabilities, target = probabilities * keep, target * keep
    overlap = jnp.sum(probabilities * target, (-2, -1))
    sizes = jnp.sum(probabilities**2, (-2, -1)) + 1e-3 + jnp.sum(target**2, (-2, -1)) + 1e-3
    return 1 - 2 * overlap / sizes


def binary_cross_entropy(probabilities: jax.Array, target: jax.Array, keep: jax.Array) -> jax.Array:
    """Mean binary cross entropy of each map, from probabilities, every logarithm at least -100 (as in PyTorch).

    Args:
      probabilities, target, keep: (..., H, W) float32; the target is 0 or 1, keep is 0 where a pixel is ignored.

    Returns:
      (...,) float32; 0 for a map of which no pixel is kept.
    """
    loss = _pixel_cross_entropy(probabilities, target)
    return weighted_mean(loss, keep, (-2, -1))


@jax.custom_jvp
def _pixel_cross_entropy(probabilities: jax.Array, target: jax.Array) -> jax.Array:
    present = jnp.maximum(jnp.log(probabilities), -100.0)
    absent = jnp.maximum(jnp.log1p(-probabilities), -100.0)
    return -target * present - (1 - target) * absent


@_pixel_cross_entropy.defjvp
def _pixel_cross_entropy_jvp(primals, tangents):
    # The derivative of the clamped logarithms would be inf * 0 where a probability has saturated; this is PyTorch's.
    probabilities, target = primals
    slope = (probabilities - target) / jnp.maximum(probabilities * (1 - probabilities), 1e-12)
    return _pixel_cross_entropy(probabilities, target), slope * tangents[0]


def cross_entropy(logits: jax.Array, labels: jax.Array, keep: jax.Array) -> jax.Array:
    """Mean cross entropy of each map over its classes.

    Args:
      logits: (..., H, W, C) float32.
      labels: (..., H, W) integer class indices; what stands where `keep` is 0 is not read.
      keep: (..., H, W) float32, 0 where a pixel is ignored.

    Returns:
      (...,) float32; 0 for a map of which no pixel is kept.
    """
    chosen = labels[..., None] == jnp.arange(logits.shape[-1])  # a comparison fuses; a gather's gradient is a scatter
    loss = jax.nn.logsumexp(logits, -1) - jnp.sum(jnp.where(chosen, logits, 0.0), -1)
    return weighted_mean(loss, keep, (-2, -1))


def weighted_mean(values: jax.Array, weights: jax.Array, axis: int | tuple[int, ...] | None = None) -> jax.Array:
    """sum(weights * values) / sum(weights) for weights of 0 and 1: 0, not NaN, where all weights are 0."""
    return jnp.sum(values * weights, axis) / jnp.maximum(jnp.sum(weights, axis), 1.0)
