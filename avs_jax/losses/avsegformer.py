"""AVSegFormer's objective (the paper's "Loss function"): segmentation loss and mixing loss on the mask feature.

total = main_weight * main(prediction, mask) + mix_weight * mix(mask feature, mask > 0)
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from avs_jax.layers.resize import resize_bilinear
from avs_jax.losses import segmentation
from avs_jax.losses.terms import weighted_mean


def total_loss(outputs, batch: Mapping[str, jax.Array], config) -> tuple[jax.Array, dict[str, jax.Array]]:
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

    Returns:
      The weighted total, and the unweighted terms {"main", "mix"} ("mix" only where the mixing loss is on).

    Raises:
      ValueError: an unknown name in `config`, or predictions of another size than the masks.
    """
    supervision = segmentation.supervise(outputs, batch, config.frames)
    found = {"main": segmentation.loss(supervision, config.main)}
    if config.mix != "none":
        mixed = jax.nn.sigmoid(_mix_logits(outputs, supervision.masks.shape[2:], segmentation.is_first(config.frames)))
        values = segmentation.binary("mix", config.mix)(mixed, supervision.objects, supervision.keep)
        found["mix"] = weighted_mean(values, supervision.weights)
    return config.main_weight * found["main"] + config.mix_weight * found.get("mix", 0.0), found


def _mix_logits(outputs, size: tuple[int, int], first: bool) -> jax.Array:
    """One logit a pixel, (B,T,H,W): mean over the mask feature's channels as released, a linear layer in the paper."""
    maps = outputs.mask_features if outputs.mix_logits is None else outputs.mix_logits
    maps = maps[:, :1] if first else maps
    maps = jnp.mean(maps.astype(jnp.float32), -1, keepdims=True)
    with jax.default_matmul_precision("float32"):
        return resize_bilinear(maps, size)[..., 0]
