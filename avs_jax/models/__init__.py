"""The models: `create` builds one from `config.model`, `prepare` makes its inputs of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from avs_jax.models.avsegformer import AVSegFormer
from avs_jax.models.outputs import semantic_scores
from avs_jax.models.tpavi import TPAVI
from avs_jax.models.vct import VCT

__all__ = ["create", "prepare", "semantic_scores"]

MODELS = {"avsegformer": AVSegFormer, "tpavi": TPAVI, "vct": VCT}

# Of ImageNet's RGB values in [0, 1]; what every backbone was trained with.
IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
IMAGES = ("frames", "pre_masks")


def create(config: Any) -> nn.Module:
    """The model that `config` (= config.model) describes. Raises ValueError if no model has the name `config.name`."""
    if config.name not in MODELS:
        raise ValueError(f"config.model.name is {config.name!r}; known models: {', '.join(MODELS)}")
    return MODELS[config.name](config)


def prepare(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The batch as model inputs: images (B, T, H, W, 3) uint8 become normalised float32, the rest passes."""
    return {**batch, **{name: _normalized(batch[name]) for name in IMAGES if name in batch}}


def _normalized(images: jax.Array) -> jax.Array:
    images = jnp.asarray(images, jnp.float32) / 255
    return (images - jnp.array(IMAGE_MEAN)) / jnp.array(IMAGE_STD)
