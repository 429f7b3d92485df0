"""VCT's objective: Mask2Former's set loss on every prediction, and prototype-audio contrast (section 3.4).

total = sum over predictions of (class_weight ce + mask_weight mask + dice_weight dice) + pac_weight pac
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from avs_jax.losses import points, segmentation
from avs_jax.losses.set_criterion import Targets, set_losses
from avs_jax.losses.terms import IGNORE, weighted_mean

PAC_TARGETS = ("category", "labels")
WEIGHTS = {"ce": "class_weight", "mask": "mask_weight", "dice": "dice_weight"}
# The prototype of each of S4's categories, which the authors number in another order than AVSBench lists them.
S4_PROTOTYPES = (7, 17, 8, 19, 16, 6, 20, 21, 1, 15, 11, 3, 5, 10, 4, 0, 22, 12, 18, 2, 14, 13, 9)


def total_loss(
    outputs, batch: Mapping[str, jax.Array], config, rng: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of a batch, in float32.

    Only annotated frames count: `mask_valid` and `clip_valid`, where the batch has them, and with `frames="first"` only
    the first of each clip. A frame's targets are the classes that it shows, the background among them; pixels of 255
    belong to none. With more than `max_targets` of them those of the highest indices are left out.

    Args:
      outputs: `VCTOutputs`.
      batch: `masks` (B,T,H,W) uint8, `mask_valid` (B,T), `clip_valid` (B,), and `category` (B,) where PAC looks at it.
      config: config.loss: `frames` ("first", "all"), `max_targets`, what `set_losses` reads, `pac_weight` and
        `pac_target`: "labels", each frame sounds like the classes in its mask, prototypes being classes; or
        "category", like its clip's S4 category.
      rng: the key of the random points.

    Returns:
      The weighted total, and the unweighted terms: "ce", "mask", "dice" of the final prediction, "ce_0", ... of those
      before, and "pac", where there are prototypes and `pac_weight` is not 0.

    Raises:
      ValueError: an unknown name in `config`.
    """
    masks, weights = batch["masks"], segmentation.frame_weights(batch)
    class_logits, mask_logits, similarity = outputs.class_logits, outputs.mask_logits, outputs.prototype_logits
    if segmentation.is_first(config.frames):
        masks, weights = masks[:, :1], weights[:, :1]
        class_logits, mask_logits = class_logits[:, :, :1], mask_logits[:, :, :1]
        similarity = None if similarity is None else similarity[:, :1]

    classes = class_logits.shape[-1] - 1
    targets = frame_targets(masks, weights, classes, min(config.max_targets, classes))
    draws = functools.partial(_draw, rng, *targets.labels.shape, config)
    layers = set_losses(_fold_frames(class_logits), _fold_frames(mask_logits), targets, config, draws)
    total = sum(getattr(config, weight) * jnp.sum(layers[term]) for term, weight in WEIGHTS.items())
    found = {term: values[-1] for term, values in layers.items()}
    found |= {f"{term}_{i}": value for term, values in layers.items() for i, value in enumerate(values[:-1])}
    if similarity is not None and config.pac_weight:
        present = pac_targets(batch, masks, similarity.shape[-1], config.pac_target)
        found["pac"] = pac_loss(similarity, present, weights)
        total += config.pac_weight * found["pac"]
    return total, found


def frame_targets(masks: jax.Array, weights: jax.Array, classes: int, max_targets: int) -> Targets:
    """The classes in each frame's mask (B, T, H, W), ascending; of two classes, the second is any object."""
    masks = masks.reshape(-1, *masks.shape[2:])
    masks = jnp.where((masks != IGNORE) & (classes == 2), jnp.minimum(masks, 1), masks)
    weights = weights.reshape(-1)
    present = classes_present(masks, classes) & (weights[:, None] > 0)
    labels = jnp.argsort(~present, axis=-1, stable=True)[:, :max_targets].astype(jnp.int32)
    return Targets(
        labels,
        masks[:, None] == labels[..., None, None],
        jnp.take_along_axis(present, labels, axis=-1),
        weights,
    )


def classes_present(masks: jax.Array, classes: int) -> jax.Array:
    """Which classes masks (..., H, W) of class indices have a pixel of: (..., classes) bool."""
    pixels = masks.reshape(-1, masks.shape[-2] * masks.shape[-1])
    found = jax.vmap(lambda frame: jnp.zeros(classes, bool).at[frame].set(True, mode="drop"))(pixels.astype(jnp.int32))
    return found.reshape(*masks.shape[:-2], classes)


def pac_targets(batch: Mapping[str, jax.Array], masks: jax.Array, prototypes: int, target: str) -> jax.Array:
    """Which prototypes each frame sounds like: (B, T, K) bool. A clip without a category (-1) sounds like none."""
    match target:
        case "labels":
            return classes_present(masks, prototypes)
        case "category":
            number = jnp.where(batch["category"] < 0, -1, jnp.array(S4_PROTOTYPES)[batch["category"]])
            present = number[:, None, None] == jnp.arange(prototypes)
            return jnp.broadcast_to(present, (*masks.shape[:2], prototypes))
    raise ValueError(f"config.loss.pac_target is {target!r}; known: {', '.join(PAC_TARGETS)}")


def pac_loss(similarity: jax.Array, present: jax.Array, weights: jax.Array) -> jax.Array:
    """Mean binary cross entropy of similarity (B, T, K), over prototypes and frames of `weights` (B, T)."""
    return weighted_mean(points.binary_cross_entropy(similarity, present.astype(similarity.dtype)), weights)


def _draw(rng: jax.Array, frames: int, targets: int, config, layer: jax.Array) -> points.Draws:
    return points.draw(jax.random.fold_in(rng, layer), frames, targets, config)


def _fold_frames(x: jax.Array) -> jax.Array:
    """(L, B, T, ...) -> (L, N, ...)."""
    return x.reshape(len(x), -1, *x.shape[3:])
