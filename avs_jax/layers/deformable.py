"""Multi-scale deformable attention (Deformable DETR, section 4.1)."""

from __future__ import annotations

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype, Initializer

from avs_jax.layers import remat, sampling
from avs_jax.layers.blocks import Dense, FeedForward, LayerNorm, gelu, xavier_uniform
from avs_jax.layers.dropout import Dropout
from avs_jax.layers.heads import merge_heads, split_heads
from avs_jax.layers.sampling import Shapes


def star_offsets(num_heads: int, num_levels: int, num_points: int) -> np.ndarray:
    """The first sampling offsets (heads, levels, points, xy), in cells, the same on every level.

    Head k looks along the angle 2 pi k / heads; its point p is p + 1 cells away in the maximum norm.
    """
    angles = 2 * math.pi * np.arange(num_heads) / num_heads
    directions = np.stack([np.cos(angles), np.sin(angles)], -1)
    directions /= np.abs(directions).max(-1, keepdims=True)
    offsets = directions[:, None, None] * np.arange(1, num_points + 1)[:, None]
    return np.broadcast_to(offsets, (num_heads, num_levels, num_points, 2))


def sampling_locations(reference: jax.Array, offsets: jax.Array, shapes: Shapes) -> jax.Array:
    """Moves reference points by offsets (N, Q, heads, levels, points, xy) -> locations of the same shape in [0, 1].

    reference: (N or 1, Q, levels, 2) points, offsets then count cells; or (N or 1, Q, levels, 4) boxes
    (x, y, width, height), an offset of `points` then reaching the box's edge.
    """
    reference = reference[:, :, None, :, None]
    if reference.shape[-1] == 2:
        cells = jnp.array([(w, h) for h, w in shapes], offsets.dtype)
        return reference + offsets / cells[:, None]
    num_points = offsets.shape[-2]
    return reference[..., :2] + offsets / num_points * reference[..., 2:] * 0.5


class MultiScaleDeformableAttention(nn.Module):
    """Every query reads `num_points` bilinear samples per level and head around its reference points.

    Offsets, reference points and so all coordinates are float32 whatever `dtype` is.
    """

    num_heads: int = 8
    num_points: int = 4
    form: sampling.Form = "auto"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, query: jax.Array, reference: jax.Array, tokens: jax.Array, shapes: Shapes, valid: jax.Array | None = None
    ) -> jax.Array:
        """Attends from query (N, Q, D) to tokens (N, S, D), the maps of the given (h, w) level by level -> (N, Q, D).

        reference: (N or 1, Q, levels, 2) or (N or 1, Q, levels, 4), as `sampling_locations` takes it.
        valid: (N, S) bool, False where a token is padding and reads as zero.
        """
        grid = (self.num_heads, len(shapes), self.num_points)
        single = jnp.promote_types(self.dtype, jnp.float32)
        zeros = nn.initializers.zeros

        value = self._dense(query.shape[-1], "value_proj", xavier_uniform())(tokens)
        if valid is not None:
            value = jnp.where(valid[..., None], value, 0)
        offsets = self._dense(2 * math.prod(grid), "sampling_offsets", zeros, _star_bias(grid), dtype=single)(query)
        offsets = offsets.reshape(*query.shape[:2], *grid, 2)
        weights = self._dense(math.prod(grid), "attention_weights", zeros)(query)
        weights = jax.nn.softmax(weights.reshape(*query.shape[:2], self.num_heads, -1).astype(single), axis=-1)

        sampled = remat.product(
            sampling.sample(
                split_heads(value, self.num_heads),
                sampling_locations(reference, offsets, shapes),
                weights.reshape(*query.shape[:2], *grid),
                shapes,
                self.form,
            )
        )
        return self._dense(query.shape[-1], "output_proj", xavier_uniform())(merge_heads(sampled))

    def _dense(
        self, features: int, name: str, kernel_init, bias_init=nn.initializers.zeros, dtype: Dtype | None = None
    ) -> Dense:
        """A product that is cheap to compute again, beside the sampling and the feed-forward."""
        return Dense(features, True, kernel_init, bias_init, dtype or self.dtype, kept=False, name=name)


def _star_bias(grid: tuple[int, int, int]):
    return lambda key, shape, dtype: jnp.asarray(star_offsets(*grid).reshape(shape), dtype)


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention and feed-forward over tokens (N, S, D), each dropped out, added and normalised."""

    num_heads: int
    num_points: int
    ffn_dim: int
    dropout: float
    kernel_init: Initializer | None = None  # of the feed-forward
    form: sampling.Form = "auto"
    dtype: Dtype = jnp.float32
    activation: Callable[[jax.Array], jax.Array] = gelu  # of the feed-forward

    @nn.compact
    def __call__(
        self, tokens: jax.Array, position: jax.Array, reference: jax.Array, shapes: Shapes, deterministic: bool
    ) -> jax.Array:
        """position: (1, S, D), added to the attention's queries alone; reference: (1, S, levels, 2)."""

        def dropped(x: jax.Array) -> jax.Array:
            return Dropout(self.dropout)(x, deterministic)

        attention = MultiScaleDeformableAttention(
            self.num_heads, self.num_points, self.form, self.dtype, name="self_attn"
        )
        update = attention(tokens + position, reference, tokens, shapes)
        tokens = LayerNorm(name="norm1")(tokens + dropped(update))
        ffn = FeedForward(self.ffn_dim, self.dropout, self.kernel_init, self.dtype, self.activation, name="ffn")
        update = ffn(tokens, deterministic)
        return LayerNorm(name="norm2")(tokens + dropped(update))
