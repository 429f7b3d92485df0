"""Multi-head attention, softmax(q k^T / sqrt(head width)) v, in PyTorch's parametrisation; the layer made of it."""

from __future__ import annotations

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype, Initializer

from avs_jax.compiler import by_platform
from avs_jax.layers import remat
from avs_jax.layers.blocks import Dense, FeedForward, LayerNorm, xavier_uniform
from avs_jax.layers.dropout import Dropout, drop, fold_in
from avs_jax.layers.heads import fold_heads, merge_heads, split_heads, unfold_heads
from avs_jax.layers.loops import one_by_one


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


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None = None,
    rate: float = 0.0,
    seed: jax.Array | None = None,
) -> jax.Array:
    """softmax(q k^T / sqrt(d)) v: (N, Q, heads, d) from query (N, Q, heads, d), key and value (N, K, heads, d).

    mask: bool, broadcastable to (N, heads, Q, K), True where a query may attend.
    rate, seed: of the dropout of the weights, where there is one (see `dropout.drop`).

    On a CPU one head of one frame at a time, whose weights stay in the cache; its backward pass computes them again.
    """
    query = jnp.broadcast_to(query, (key.shape[0], *query.shape[1:]))  # (1, Q, ...): the same for every frame
    if mask is not None:
        mask = jnp.broadcast_to(mask, (query.shape[0], query.shape[2], query.shape[1], key.shape[1]))
    arguments = (query, key, value, mask, seed)
    return remat.product(
        by_platform(
            *arguments, cpu=functools.partial(_attend_looped, rate=rate), default=functools.partial(_attend, rate=rate)
        )
    )


def _attend(query, key, value, mask, seed, rate: float) -> jax.Array:
    weights = attention_weights(query, key, mask)
    if seed is not None:
        weights = drop(weights, rate, seed)
    return jnp.einsum("nhqk,nkhd->nqhd", weights.astype(value.dtype), value)


def _attend_looped(query, key, value, mask, seed, rate: float) -> jax.Array:
    frames, _, heads, _ = query.shape
    masks = None if mask is None else mask.reshape(frames * heads, *mask.shape[2:])
    index = jnp.arange(frames * heads, dtype=jnp.uint32)
    seeds = None if seed is None else jax.vmap(fold_in, (None, 0))(seed, index)
    each = tuple(map(unfold_heads, (query, key, value)))
    return fold_heads(one_by_one(functools.partial(_attend_once, rate), (), each, (masks, seeds)), heads)


def _attend_once(rate: float, _, each, constants) -> jax.Array:
    """One head of one frame: query (Q, d), key and value (K, d), mask (Q, K) or None, seed or None."""
    (query, key, value), (mask, seed) = each, constants
    accumulate = jnp.promote_types(query.dtype, jnp.float32)
    logits = jnp.matmul(query * (1 / math.sqrt(query.shape[-1])), key.T, preferred_element_type=accumulate)
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(accumulate).min)
    weights = jnp.exp(logits - jax.lax.stop_gradient(jnp.max(logits, -1, keepdims=True)))
    total = jnp.sum(weights, -1, keepdims=True)  # of what is not dropped, too
    if seed is not None:
        weights = drop(weights, rate, seed)
    return (jnp.matmul(weights.astype(value.dtype), value) / total).astype(value.dtype)


class MultiHeadAttention(nn.Module):
    """Attention of query (N, Q, D) over key and value (N, K, D) -> (N, Q, D); `dropout` acts on the weights.

    Initialised as in AVSegFormer: the query, key and value kernels as the one matrix that PyTorch keeps them in.
    Over a single key every weight is 1, and neither queries nor keys are looked at.
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
        """`query` may be (1, Q, D), the same for every frame; `mask` is as `attend` takes it."""

        def project(x: jax.Array, name: str, stacked: int) -> jax.Array:
            return Dense(
                query.shape[-1],
                use_bias=self.use_bias,
                kernel_init=xavier_uniform(stacked),
                bias_init=nn.initializers.zeros,
                dtype=self.dtype,
                kept=False,  # cheap beside the weighing of keys and the feed-forward
                name=name,
            )(x)

        seed = Dropout(self.dropout).seed(deterministic)
        if key.shape[1] == 1 and mask is None and seed is None and not self.is_initializing():
            found = project(project(value, "value", 3), "out", 1)
            return jnp.broadcast_to(found, (value.shape[0], *query.shape[1:]))
        q = split_heads(project(query, "query", 3), self.num_heads)
        k = split_heads(project(key, "key", 3), self.num_heads)
        v = split_heads(project(value, "value", 3), self.num_heads)
        return project(merge_heads(attend(q, k, v, mask, self.dropout, seed)), "out", 1)


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

        def dropped(x: jax.Array) -> jax.Array:
            return Dropout(self.dropout)(x, deterministic)

        def read(name: str, source: jax.Array) -> jax.Array:
            attention = MultiHeadAttention(self.num_heads, self.use_bias, self.dropout, self.dtype, name=name)
            return attention(queries, source, source, deterministic=deterministic)

        queries = LayerNorm(name="norm1")(queries + dropped(read("self_attn", queries)))
        queries = LayerNorm(name="norm2")(queries + dropped(read("cross_attn", memory)))
        update = FeedForward(self.ffn_dim, self.dropout, self.kernel_init, self.dtype, name="ffn")(
            queries, deterministic
        )
        return LayerNorm(name="norm3")(queries + dropped(update))
