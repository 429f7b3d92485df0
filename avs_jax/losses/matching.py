"""One-to-one matching of queries and targets by the Hungarian algorithm (DETR, Carion et al., ECCV 2020), on device."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax


def matching_costs(
    class_logits: jax.Array, point_logits: jax.Array, labels: jax.Array, point_targets: jax.Array, config
) -> jax.Array:
    """What it costs that each query of a frame takes each target: (Q, K).

    class_weight * -p(label) + mask_weight * binary cross entropy + dice_weight * dice, the last two over P points.

    Args:
      class_logits: (Q, C + 1).
      point_logits: (P, Q), the masks' logits at the points.
      labels: (K,) classes of the targets.
      point_targets: (P, K), the targets' masks there.
      config: has the three weights.
    """
    probabilities = jax.nn.softmax(class_logits, axis=-1)[:, labels]
    masks = jax.nn.sigmoid(point_logits)
    with jax.default_matmul_precision("float32"):
        agreement, overlap = point_logits.T @ point_targets, masks.T @ point_targets
    # softplus(x) - x t, as in `points.binary_cross_entropy`, of every query with every target.
    cross_entropy = (jnp.sum(jax.nn.softplus(point_logits), 0)[:, None] - agreement) / len(point_logits)
    dice = 1 - (2 * overlap + 1) / (jnp.sum(masks, 0)[:, None] + jnp.sum(point_targets, 0) + 1)
    return config.class_weight * -probabilities + config.mask_weight * cross_entropy + config.dice_weight * dice


def match(costs: jax.Array, valid: jax.Array) -> jax.Array:
    """The query (..., K) int32 of each target, of the assignment that costs least in all.

    What padding is matched with means nothing. Costs that are not finite count as very high.

    Args:
      costs: (..., Q, K).
      valid: (..., K) bool, False where a target is padding.

    Raises:
      ValueError: K is greater than Q.
    """
    queries, targets = costs.shape[-2:]
    if targets > queries:
        raise ValueError(f"{targets} targets cannot be matched with {queries} queries, one each")
    # Padding costs the same everywhere, so it takes what the others leave. NaN would keep the algorithm going for ever.
    costs = jnp.where(valid[..., None, :], jnp.nan_to_num(costs, nan=1e6, posinf=1e6, neginf=-1e6), 0.0)

    def one(costs: jax.Array) -> jax.Array:
        query, target = optax.assignment.hungarian_algorithm(costs)
        return jnp.zeros(targets, jnp.int32).at[target].set(query.astype(jnp.int32))

    for _ in costs.shape[:-2]:
        one = jax.vmap(one)
    return one(jax.lax.stop_gradient(costs))
