"""Losses at random points of masks instead of at every pixel (PointRend, Kirillov et al., CVPR 2020, section 3.2)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Draws(NamedTuple):
    """The random points (x, y) in [0, 1] of N frames with K targets each."""

    matching: jax.Array  # (N, P, 2): where the masks of a frame are compared for the matching
    candidates: jax.Array  # (N, K, oversample P, 2): the most uncertain of these enter a matched pair's loss
    plain: jax.Array  # (N, K, P - uncertain, 2): these enter it, too


def draw(key: jax.Array, frames: int, targets: int, config) -> Draws:
    """Uniform points; `config` has `num_points` P, `oversample` and `importance`, see `num_uncertain`."""
    points, pairs = config.num_points, (frames, targets)
    shapes = Draws(
        (frames, points, 2),
        (*pairs, int(points * config.oversample), 2),
        (*pairs, points - num_uncertain(config), 2),
    )
    return Draws(*map(jax.random.uniform, jax.random.split(key, 3), shapes))


def num_uncertain(config) -> int:
    """How many of a pair's `num_points` points are chosen for their uncertainty: a share of `importance`."""
    return int(config.importance * config.num_points)


def sample(maps: jax.Array, points: jax.Array) -> jax.Array:
    """Reads maps (N, h, w, C) at points (N, P, 2), (x, y) in [0, 1], bilinearly; zero outside: (N, P, C).

    A cell's centre lies at ((column + 0.5) / w, (row + 0.5) / h).
    """
    height, width = maps.shape[1:3]
    x, y = points[..., 0] * width - 0.5, points[..., 1] * height - 0.5
    left, top = jnp.floor(x), jnp.floor(y)
    right_share, bottom_share = x - left, y - top
    padded = jnp.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0))).reshape(len(maps), -1, maps.shape[-1])
    first = (top.astype(jnp.int32) + 1) * (width + 2) + left.astype(jnp.int32) + 1
    corners = (
        (0, (1 - right_share) * (1 - bottom_share)),
        (1, right_share * (1 - bottom_share)),
        (width + 2, (1 - right_share) * bottom_share),
        (width + 3, right_share * bottom_share),
    )
    return sum(
        jnp.take_along_axis(padded, (first + offset)[..., None], axis=1) * share[..., None] for offset, share in corners
    )


def loss_points(logits: jax.Array, candidates: jax.Array, plain: jax.Array, uncertain: int) -> jax.Array:
    """The points (M, P, 2) at which M masks are compared: the `uncertain` candidates nearest to 0, and the plain ones.

    logits: (M, h, w); candidates: (M, R, 2); plain: (M, P - uncertain, 2).
    """
    found = sample(jax.lax.stop_gradient(logits)[..., None], candidates)[..., 0]
    _, chosen = jax.lax.top_k(-jnp.abs(found), uncertain)
    return jnp.concatenate([jnp.take_along_axis(candidates, chosen[..., None], axis=1), plain], axis=1)


def binary_cross_entropy(logits: jax.Array, target: jax.Array) -> jax.Array:
    """Mean over the last axis; the target may be soft."""
    return jnp.mean(jax.nn.softplus(logits) - logits * target, axis=-1)


def dice(logits: jax.Array, target: jax.Array) -> jax.Array:
    """1 - (2 sum p t + 1) / (sum p + sum t + 1) over the last axis (Mask2Former's: no squares)."""
    probabilities = jax.nn.sigmoid(logits)
    overlap = jnp.sum(probabilities * target, -1)
    return 1 - (2 * overlap + 1) / (jnp.sum(probabilities, -1) + jnp.sum(target, -1) + 1)
