"""Multi-head attention, softmax(q k^T / sqrt(head width)) v, in PyTorch's parametrisation; the layer made of it."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype, Initializer

from avs_jax.layers.blocks import Dense, FeedForward, LayerNorm, xavier_uniform


def split_heads(x: jax.Array, num_heads: int) -> jax.Array:
    """(N, L, D) -> (N, L, heads, D / heads)."""
    return x.reshape(*x.shape[:-1], num_heads, x.shape[-1] // num_heads)


def merge_heads(x: jax.Array) -> jax.Array:
    """(N, L, heads, D / heads) -> (N, L, D)."""
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


def attention_weights(query: jax.Array, key: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """softmax(q k^T / sqrt(d)), (N, heads, Q, K) in float32, from query (N, Q, heads, d) and key (N, K, heads, d).

    `mask` (bool, broadcastable to the weights) is True where a query may attend.
    """
    accumulate = jnp.promote_types(query.dtype, jnp.float32)
    query = query * (1 / math.sqrt(query.shape[-1]))
    logits = jnp.einsum("nqhd,nkhd->nhqk", query, key, preferred_element_type=accumulate)
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(accumulate).min)
    return jax.nn.softmax(logits, axis=-1)


class MultiHeadAttention(nn.Module):
    """Attention of query (N, Q, D) over key and value (N, K, D) -> (N, Q, D); `dropout` acts on the weights.

    Initialised as in AVSegFormer: the query, key and value kernels as the one matrix that PyTorch keeps them in.
    """

    num_heads: int
    use_bias: bool = True
    dropout: float = 0.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        mask: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        def project(x: jax.Array, name: str, stacked: int) -> jax.Array:
            return Dense(
                query.shape[-1],
                use_bias=self.use_bias,
                kernel_init=xavier_uniform(stacked),
                bias_init=nn.initializers.zeros,
                dtype=self.dtype,
                name=name,
            )(x)

        q = split_heads(project(query, "query", 3), self.num_heads)
        k = split_heads(project(key, "key", 3), self.num_heads)
        v = split_heads(project(value, "value", 3), self.num_heads)
        weights = attention_weights(q, k, mask)
        weights = nn.Dropout(self.dropout)(weights, deterministic=deterministic).astype(self.dtype)
        return project(merge_heads(jnp.einsum("nhqk,nkhd->nqhd", weights, v)), "out", 1)


class DecoderLayer(nn.Module):
    """Queries look at each other, then at a memory; feed-forward. Each step is dropped out, added and normalised."""

    num_heads: int
    ffn_dim: int
    dropout: float
    use_bias: bool = True  # of the attentions
    kernel_init: Initializer | None = None  # of the feed-forward
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, queries: jax.Array, memory: jax.Array, deterministic: bool = True) -> jax.Array:
        """queries (N, Q, D), memory (N, K, D) -> (N, Q, D). Neither carries a position."""
        drop = nn.Dropout(self.dropout, deterministic=deterministic)

        def attend(name: str, source: jax.Array) -> jax.Array:
            attention = MultiHeadAttention(self.num_heads, self.use_bias, self.dropout, self.dtype, name=name)
            return attention(queries, source, source, deterministic=deterministic)

        queries = LayerNorm(dtype=self.dtype, name="norm1")(queries + drop(attend("self_attn", queries)))
        queries = LayerNorm(dtype=self.dtype, name="norm2")(queries + drop(attend("cross_attn", memory)))
        update = FeedForward(self.ffn_dim, self.dropout, self.kernel_init, self.dtype, name="ffn")(
            queries, deterministic
        )
        return LayerNorm(dtype=self.dtype, name="norm3")(queries + drop(update))
