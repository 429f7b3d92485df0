"""Mask2Former's set prediction loss (Cheng et al., CVPR 2022, section 3.3): match, then compare classes and masks.

Shapes: L predictions (one a decoder layer, each matched by itself), N frames, Q queries, K targets a frame of which
some are padding, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from avs_jax.losses import points
from avs_jax.losses.matching import match, matching_costs


class Targets(NamedTuple):
    """What is to be found in N frames."""

    labels: jax.Array  # (N, K) int32
    masks: jax.Array  # (N, K, H, W), 0 and 1, of any size and type
    valid: jax.Array  # (N, K) bool, False for padding
    frames: jax.Array  # (N,) float32, 1 for frames that count and 0 for others


def set_losses(
    class_logits: jax.Array,
    mask_logits: jax.Array,
    targets: Targets,
    config,
    draws: Callable[[jax.Array], points.Draws],
) -> dict[str, jax.Array]:
    """The terms {"ce", "mask", "dice"} of each of the L predictions, (L,) each, before their weights.

    ce: cross entropy of the queries of all frames that count, "no object" with a weight of `no_object_weight` (mean by
    weight). mask, dice: at points of the matched pairs, summed over pairs and divided by their number. Predictions
    are worked off one after the other, so that the points of one are in memory at a time; matched all at once.

    Args:
      class_logits: (L, N, Q, C + 1) float32, "no object" last.
      mask_logits: (L, N, Q, h, w) float32.
      targets: those of the frames.
      config: class_weight, mask_weight, dice_weight (of the matching), no_object_weight, num_points, oversample and
        importance.
      draws: the number of a prediction -> its random points.
    """
    class_logits, mask_logits, targets = jax.tree.map(jnp.asarray, (class_logits, mask_logits, targets))
    layers = jnp.arange(len(class_logits))
    target_maps = jnp.moveaxis(targets.masks, 1, -1).astype(jnp.float32)  # (N, H, W, K)

    def costs(arguments: tuple[jax.Array, ...]) -> jax.Array:
        layer, classes, masks = arguments
        at = draws(layer).matching
        predicted = points.sample(jnp.moveaxis(masks, 1, -1), at)  # (N, P, Q)
        wanted = points.sample(target_maps, at)  # (N, P, K)
        return jax.vmap(lambda *frame: matching_costs(*frame, config))(classes, predicted, targets.labels, wanted)

    every = jax.lax.map(costs, jax.lax.stop_gradient((layers, class_logits, mask_logits)))  # (L, N, Q, K)
    matched = match(every, jnp.broadcast_to(targets.valid, every.shape[:2] + targets.valid.shape[1:]))

    @jax.checkpoint
    def pair_losses(arguments: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        layer, masks, queries = arguments
        return mask_losses(masks, targets, queries, draws(layer), points.num_uncertain(config))

    mask, dice = jax.lax.map(pair_losses, (layers, mask_logits, matched))
    ce = jax.vmap(lambda logits, queries: class_loss(logits, targets, queries, config.no_object_weight))
    return {"ce": ce(class_logits, matched), "mask": mask, "dice": dice}


def class_loss(logits: jax.Array, targets: Targets, matched: jax.Array, no_object_weight: float) -> jax.Array:
    """Cross entropy of logits (N, Q, C + 1): matched (N, K) queries take their target's label, others "no object"."""
    frames, queries, classes = logits.shape
    wanted = jnp.full((frames, queries), classes - 1)
    places = jnp.where(targets.valid, matched, queries)  # padding: beyond the last query, and so dropped
    wanted = wanted.at[jnp.arange(frames)[:, None], places].set(targets.labels, mode="drop")
    one_hot = wanted[..., None] == jnp.arange(classes)
    losses = jax.nn.logsumexp(logits, -1) - jnp.sum(jnp.where(one_hot, logits, 0.0), -1)
    weights = jnp.where(wanted == classes - 1, no_object_weight, 1.0) * targets.frames[:, None]
    total = jnp.sum(weights)
    return jnp.sum(losses * weights) / jnp.where(total > 0, total, 1.0)


def mask_losses(
    logits: jax.Array, targets: Targets, matched: jax.Array, draws: points.Draws, uncertain: int
) -> tuple[jax.Array, jax.Array]:
    """Cross entropy and dice between the masks (N, Q, h, w) of matched (N, K) queries and the targets' masks."""
    pairs = matched.size
    masks = jnp.take_along_axis(logits, matched[:, :, None, None], axis=1).reshape(pairs, *logits.shape[2:])
    candidates, plain = (x.reshape(pairs, *x.shape[2:]) for x in (draws.candidates, draws.plain))
    at = points.loss_points(masks, candidates, plain, uncertain)
    predicted = points.sample(masks[..., None], at)[..., 0]
    wanted = targets.masks.reshape(pairs, *targets.masks.shape[2:], 1).astype(predicted.dtype)
    wanted = points.sample(wanted, at)[..., 0]

    number = jnp.maximum(jnp.sum(targets.valid), 1)
    counts = targets.valid.reshape(pairs)
    losses = (points.binary_cross_entropy(predicted, wanted), points.dice(predicted, wanted))
    return tuple(jnp.sum(jnp.where(counts, loss, 0.0)) / number for loss in losses)
