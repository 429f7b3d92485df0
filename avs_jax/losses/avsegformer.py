"""AVSegFormer's objective (the paper's "Loss function"): segmentation loss and mixing loss on the mask feature.

total = main_weight * main(prediction, mask) + mix_weight * mix(mask feature, mask > 0)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from avs_jax.layers.resize import resize_bilinear
from avs_jax.losses import terms

BINARY = {"dice": terms.dice, "bce": terms.binary_cross_entropy}


def total_loss(outputs, batch: dict, config, rng: jax.Array | None = None) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of a batch, in float32.

    Only annotated frames count: `mask_valid` and `clip_valid`, where the batch has them, and with `frames="first"` only
    the first of each clip. Pixels of 255 are ignored, and frames that have no others. Each term is the mean over the
    frames that are left, 0 if there is none.

    Args:
      outputs: `mask_logits` (B,T,H,W,C), `mask_features` (B,T,h,w,D), `mix_logits` (B,T,h,w,1) or, as released, None:
        the mean over the mask feature's channels.
      batch: `masks` (B,T,H,W) uint8, `mask_valid` (B,T) bool, `clip_valid` (B,) bool.
      config: `frames` ("first", "all"), `main` ("dice", "bce", "cross_entropy"), `mix` ("dice", "bce", "none"),
        `main_weight`, `mix_weight`.
      rng: not used, the loss has no randomness.

    Returns:
      The weighted total, and the unweighted terms {"main", "mix"} ("mix" only where the mixing loss is on).

    Raises:
      ValueError: an unknown name in `config`, or predictions of another size than the masks.
    """
    del rng
    first = _is_first(config.frames)
    logits, masks = outputs.mask_logits, batch["masks"]
    if logits.shape[:4] != masks.shape:
        raise ValueError(f"mask_logits {logits.shape} do not belong to masks {masks.shape}: both start with (B,T,H,W)")
    weights = frame_weights(batch)
    if first:
        logits, masks, weights = logits[:, :1], masks[:, :1], weights[:, :1]
    keep = (masks != terms.IGNORE).astype(jnp.float32)
    weights *= jnp.max(keep, (2, 3))
    target = ((masks > 0) & (masks != terms.IGNORE)).astype(jnp.float32)

    found = {"main": terms.weighted_mean(_main(logits.astype(jnp.float32), masks, target, keep, config.main), weights)}
    if config.mix != "none":
        mixed = jax.nn.sigmoid(_mix_logits(outputs, masks.shape[2:], first))
        found["mix"] = terms.weighted_mean(_binary("mix", config.mix)(mixed, target, keep), weights)
    return config.main_weight * found["main"] + config.mix_weight * found.get("mix", 0.0), found


def frame_weights(batch: dict) -> jax.Array:
    """(B,T) float32: 1 for the frames of a batch that carry a loss, 0 for the others."""
    weights = jnp.ones(batch["masks"].shape[:2], jnp.float32)
    if "mask_valid" in batch:
        weights *= batch["mask_valid"]
    if "clip_valid" in batch:
        weights *= batch["clip_valid"][:, None]
    return weights


def _main(logits: jax.Array, masks: jax.Array, target: jax.Array, keep: jax.Array, name: str) -> jax.Array:
    if name == "cross_entropy":
        return terms.cross_entropy(logits, masks, keep)
    if logits.shape[-1] != 1:
        raise ValueError(f"loss.main={name!r} is for one class, these are {logits.shape[-1]}: 'cross_entropy'")
    return _binary("main", name)(jax.nn.sigmoid(logits[..., 0]), target, keep)


def _mix_logits(outputs, size: tuple[int, int], first: bool) -> jax.Array:
    """One logit a pixel, (B,T,H,W): mean over the mask feature's channels as released, a linear layer in the paper."""
    maps = outputs.mask_features if outputs.mix_logits is None else outputs.mix_logits
    maps = maps[:, :1] if first else maps
    maps = jnp.mean(maps.astype(jnp.float32), -1, keepdims=True)
    with jax.default_matmul_precision("float32"):
        return resize_bilinear(maps, size)[..., 0]


def _is_first(frames: str) -> bool:
    if frames not in ("first", "all"):
        raise ValueError(f"loss.frames={frames!r}: 'first' or 'all'")
    return frames == "first"


def _binary(field: str, name: str):
    if name not in BINARY:
        raise ValueError(f"loss.{field}={name!r}: one of {', '.join(BINARY)}")
    return BINARY[name]
