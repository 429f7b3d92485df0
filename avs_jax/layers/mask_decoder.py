"""Mask2Former's decoder (Cheng et al., CVPR 2022, section 3.2.1): queries look where their last mask was.

Every layer is followed by a prediction, and there is one before the first, so L = layers + 1. Shapes: N frames, Q
queries of D channels, S cells of one map, C classes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from avs_jax.layers import remat
from avs_jax.layers.attention import MultiHeadAttention
from avs_jax.layers.blocks import Dense, FeedForward, LayerNorm, mlp, xavier_uniform
from avs_jax.layers.position import map_position
from avs_jax.layers.resize import resize_bilinear

_embedding = nn.initializers.normal(1.0)


class MaskPredictions(NamedTuple):
    """What every layer says, the last one last; leading axes as documented where they are made."""

    class_logits: jax.Array  # (L, N, Q, C + 1) float32; the last class is "no object"
    mask_logits: jax.Array  # (L, N, Q, h, w) float32


class MaskedDecoder(nn.Module):
    """Queries read one map after the other, each only where it predicted its mask before.

    `query_features` and `query_positions` say whether there are learnt ones, `remat` what layers keep for
    the backward pass (see `layers.remat`). Queries after each layer are sown as `decoder_0`, `decoder_1`, ..., the
    cells that they may look at as `attention_mask_0`, ... (N, 1, Q, S).
    """

    num_queries: int
    num_classes: int  # C, without "no object"
    num_layers: int = 9
    num_heads: int = 8
    ffn_dim: int = 2048
    query_features: bool = True
    query_positions: bool = True
    remat: str = "none"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        maps: Sequence[jax.Array],
        mask_features: jax.Array,
        queries: jax.Array | None = None,
        unmasked: Collection[int] = (),
    ) -> MaskPredictions:
        """Layer i reads `maps[i % len(maps)]`.

        Args:
          maps: (N, h_l, w_l, D).
          mask_features: (N, h, w, D), of which each query's mask embedding takes its mask.
          queries: (N, Q, D) to start from, added to the learnt ones.
          unmasked: numbers of the maps that queries see whole, as those that are no images.
        """
        frames, features = mask_features.shape[0], mask_features.shape[-1]
        start = jnp.zeros((frames, self.num_queries, features), self.dtype)
        if self.query_features:
            start += self._learnt("query_features", self.num_queries, features)
        queries = start if queries is None else start + queries
        position = self._learnt("query_positions", self.num_queries, features) if self.query_positions else 0
        keys, values = self._tokens(maps)

        predict = MaskHead(self.num_classes, self.dtype, name="head")
        layer = remat.block(MaskedDecoderLayer, self.remat)
        predictions = [predict(queries, mask_features)]
        for i in range(self.num_layers):
            level = i % len(maps)
            mask = None
            if level not in unmasked:
                mask = attention_mask(predictions[-1].mask_logits, maps[level].shape[1:3])
                self.sow("intermediates", f"attention_mask_{i}", mask)
            queries = layer(self.num_heads, self.ffn_dim, self.dtype, name=f"layer_{i}")(
                queries, position, keys[level], values[level], mask
            )
            self.sow("intermediates", f"decoder_{i}", queries)
            predictions.append(predict(queries, mask_features))
        return jax.tree.map(lambda *layers: jnp.stack(layers), *predictions)

    def _tokens(self, maps: Sequence[jax.Array]) -> tuple[list[jax.Array], list[jax.Array]]:
        """Keys and values (N, S, D) of each map: its cells and the level's embedding, keys with their position."""
        features = maps[0].shape[-1]
        level_embed = self._learnt("level_embed", len(maps), features)
        values = [x.reshape(len(x), -1, features) + embed for x, embed in zip(maps, level_embed, strict=True)]
        positions = [map_position(x.shape[1:3], features).astype(self.dtype) for x in maps]
        return [value + position for value, position in zip(values, positions, strict=True)], values

    def _learnt(self, name: str, rows: int, features: int) -> jax.Array:
        return self.param(name, _embedding, (rows, features), jnp.float32).astype(self.dtype)


class MaskedDecoderLayer(nn.Module):
    """Attention to a map, then among the queries, then a feed-forward network; each is added and normalised."""

    num_heads: int
    ffn_dim: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, queries: jax.Array, position: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None
    ) -> jax.Array:
        """queries (N, Q, D), their position (Q, D), key and value (N, S, D), mask (N, 1, Q, S) -> (N, Q, D) float32."""
        attend = MultiHeadAttention(self.num_heads, dtype=self.dtype, name="cross_attn")
        queries = LayerNorm(name="cross_norm")(queries + attend(queries + position, key, value, mask))
        attend = MultiHeadAttention(self.num_heads, dtype=self.dtype, name="self_attn")
        placed = queries + position
        queries = LayerNorm(name="self_norm")(queries + attend(placed, placed, queries))
        ffn = FeedForward(self.ffn_dim, kernel_init=xavier_uniform(), dtype=self.dtype, activation=nn.relu, name="ffn")
        return LayerNorm(name="ffn_norm")(queries + ffn(queries))


class MaskHead(nn.Module):
    """Class logits of queries (N, Q, D), and their masks: the products of mask embeddings and mask features."""

    num_classes: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, queries: jax.Array, mask_features: jax.Array) -> MaskPredictions:
        """Without the layers' axis: (N, Q, C + 1) and (N, Q, h, w), float32."""
        x = LayerNorm(dtype=self.dtype, name="norm")(queries)
        class_logits = Dense(self.num_classes + 1, dtype=self.dtype, name="class_embed")(x)
        x = mlp(x, (mask_features.shape[-1],) * 3, self.dtype, "mask_embed")
        accumulate = jnp.promote_types(self.dtype, jnp.float32)
        mask_logits = jnp.einsum("nqd,nhwd->nqhw", x, mask_features, preferred_element_type=accumulate)
        return MaskPredictions(class_logits.astype(accumulate), mask_logits)


def attention_mask(mask_logits: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Where queries may look on a map of (h, w), by their masks (N, Q, H, W): (N, 1, Q, h w) bool, no gradient.

    A query whose mask is empty there looks everywhere.
    """
    logits = jax.lax.stop_gradient(mask_logits)
    with jax.default_matmul_precision("float32"):
        logits = resize_bilinear(logits[..., None], shape)
    inside = (jax.nn.sigmoid(logits) >= 0.5).reshape(*mask_logits.shape[:2], -1)
    return (inside | ~inside.any(-1, keepdims=True))[:, None]
