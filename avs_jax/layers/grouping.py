"""Grouping of pixels by queries: every pixel goes to one query, drawn by the Gumbel-max trick in training.

Written from the equations of VCT (section 3.3, pixel context grouping): with logits L = q k^T / sqrt(D) of Q queries
and S pixels, and noise G of independent Gumbel(0, 1) draws,

    Y = softmax over queries of (L + G) / temperature,    Y^ = one-hot of Y's argmax over queries,
    A = Y^ / (1 + sum over pixels of Y^),                 output = W_o A (W_v pixels) + b_o.

Y^ has the gradient of Y (straight through), in the sum as well.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from avs_jax.layers.blocks import Dense

Grouping = Literal["gumbel", "softmax"]
KINDS = get_args(Grouping)


def soft_assignment(logits: jax.Array, noise: jax.Array | None = None, temperature: float = 1.0) -> jax.Array:
    """How much of each pixel goes to each query, (..., Q, S): for a pixel it sums to 1 over the queries."""
    noisy = logits if noise is None else logits + noise
    return jax.nn.softmax(noisy / temperature, axis=-2)


def straight_through(soft: jax.Array) -> jax.Array:
    """One-hot of the argmax over queries of soft (..., Q, S), the first of equal ones, with the gradient of `soft`."""
    hard = jax.nn.one_hot(jnp.argmax(soft, axis=-2), soft.shape[-2], axis=-2, dtype=soft.dtype)
    return hard + (soft - jax.lax.stop_gradient(soft))


def normalize_groups(assignment: jax.Array) -> jax.Array:
    """Weights (..., Q, S) of a query's pixels from the assignment; a query without pixels has none."""
    return assignment / (1 + jnp.sum(assignment, axis=-1, keepdims=True))


class GroupingAttention(nn.Module):
    """Each query (N, Q, D) gathers the pixels (N, S, D) that choose it.

    kind "gumbel": hard choices, by Gumbel noise in training (rng stream `dropout`) and without noise otherwise;
    "softmax": pixels are shared out softly, without noise. The assignment is sown as `assignment`.
    """

    kind: Grouping = "gumbel"
    temperature: float = 1.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, queries: jax.Array, pixels: jax.Array, train: bool = False, noise: jax.Array | None = None
    ) -> jax.Array:
        """What the queries gathered, (N, Q, D). `noise` (N, Q, S), where given, stands in for the drawn one."""
        if self.kind not in KINDS:
            raise ValueError(f"no grouping is named {self.kind!r}; known: {', '.join(KINDS)}")
        features = queries.shape[-1]
        query, key, value = (
            Dense(features, dtype=self.dtype, name=name)(x)
            for name, x in (("query", queries), ("key", pixels), ("value", pixels))
        )
        accumulate = jnp.promote_types(self.dtype, jnp.float32)
        logits = jnp.einsum("nqd,nsd->nqs", query, key, preferred_element_type=accumulate) / math.sqrt(features)
        if train and noise is None and self.kind == "gumbel":
            noise = jax.random.gumbel(self.make_rng("dropout"), logits.shape, logits.dtype)
        assignment = soft_assignment(logits, noise, self.temperature)
        if self.kind == "gumbel":
            assignment = straight_through(assignment)
        self.sow("intermediates", "assignment", assignment)
        weights = normalize_groups(assignment).astype(self.dtype)
        return Dense(features, dtype=self.dtype, name="out")(jnp.einsum("nqs,nsd->nqd", weights, value))
