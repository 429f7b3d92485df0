"""The segmentation loss that the systems share: which frames and pixels count, and the loss of their predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from avs_jax.losses import terms

BINARY = {"dice": terms.dice, "bce": terms.binary_cross_entropy}


class Supervision(NamedTuple):
    """Predictions of B clips of T frames, or of one frame each, and what they should be."""

    logits: jax.Array  # (B, T, H, W, C) float32
    masks: jax.Array  # (B, T, H, W) uint8, class indices
    objects: jax.Array  # (B, T, H, W) float32, 1 where there is one of any class
    keep: jax.Array  # (B, T, H, W) float32, 0 where a pixel is ignored
    weights: jax.Array  # (B, T) float32, 0 where a frame carries no loss


def supervise(outputs, batch: Mapping[str, jax.Array], frames: str) -> Supervision:
    """Takes `frames` ("first" or "all") of every clip.

    Only annotated frames have a weight: `mask_valid` and `clip_valid`, where the batch has them. Pixels of 255 are
    ignored, and frames that have no others.

    Raises:
      ValueError: `frames` is unknown, or the predictions have another size than the masks.
    """
    logits, masks = outputs.mask_logits, batch["masks"]
    if logits.shape[:4] != masks.shape:
        raise ValueError(f"mask_logits {logits.shape} do not belong to masks {masks.shape}: both start with (B,T,H,W)")
    weights = frame_weights(batch)
    if is_first(frames):
        logits, masks, weights = logits[:, :1], masks[:, :1], weights[:, :1]
    keep = (masks != terms.IGNORE).astype(jnp.float32)
    weights *= jnp.max(keep, (2, 3))
    objects = ((masks > 0) & (masks != terms.IGNORE)).astype(jnp.float32)
    return Supervision(logits.astype(jnp.float32), masks, objects, keep, weights)


def loss(supervision: Supervision, name: str) -> jax.Array:
    """The loss `name` ("dice", "bce", "cross_entropy"), mean over the frames that carry one, 0 if there is none."""
    logits, masks, objects, keep, weights = supervision
    if name == "cross_entropy":
        return terms.weighted_mean(terms.cross_entropy(logits, masks, keep), weights)
    if logits.shape[-1] != 1:
        raise ValueError(f"loss.main={name!r} is for one class, these are {logits.shape[-1]}: 'cross_entropy'")
    return terms.weighted_mean(binary("main", name)(jax.nn.sigmoid(logits[..., 0]), objects, keep), weights)


def frame_weights(batch: Mapping[str, jax.Array], flag: str = "mask_valid") -> jax.Array:
    """(B, T) float32: 1 for the frames of real clips whose `flag` (where the batch has it) is set, 0 for the others."""
    weights = jnp.ones(batch["masks"].shape[:2], jnp.float32)
    if flag in batch:
        weights *= batch[flag]
    if "clip_valid" in batch:
        weights *= batch["clip_valid"][:, None]
    return weights


def is_first(frames: str) -> bool:
    """Whether `config.loss.frames` says that only the first frame of a clip carries a loss."""
    if frames not in ("first", "all"):
        raise ValueError(f"loss.frames={frames!r}: 'first' or 'all'")
    return frames == "first"


def binary(field: str, name: str):
    """The loss of single binary maps of that name, which `config.loss` has in `field`."""
    if name not in BINARY:
        raise ValueError(f"loss.{field}={name!r}: one of {', '.join(BINARY)}")
    return BINARY[name]
