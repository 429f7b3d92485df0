"""Weights of the published PyTorch systems, to and from our variables, without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from avs_jax.convert import backbone, rules, tables
from avs_jax.convert.files import read
from avs_jax.convert.rules import ConversionError

__all__ = [
    "ConversionError",
    "backbone_from_torch",
    "backbone_to_torch",
    "from_torch",
    "read",
    "to_torch",
    "vggish_from_torch",
]


def from_torch(state_dict: Mapping[str, np.ndarray], config_model) -> dict:
    """Turns the authors' state dict into variables of `avs_jax.models.create(config_model)`.

    Args:
      state_dict: {the authors' name: array}, every entry of it; or a checkpoint of ours, as `read` gives it.
      config_model: `config.model`, which decides the entries and their shapes.

    Returns:
      {"params": tree, "batch_stats": tree, "dead": {the authors' name: array}}. `dead` keeps the entries that the
      authors' model holds and never uses; `model.apply` ignores it.

    Raises:
      ConversionError: entries are missing, left over or of a wrong shape; the message lists them all.
    """
    if rules.is_flat(state_dict):
        variables = rules.unflat(state_dict)
        to_torch(variables, config_model)  # raises where something does not fit
        return variables
    return rules.from_torch(state_dict, tables.model(config_model))


def to_torch(variables: Mapping, config_model) -> dict[str, np.ndarray]:
    """Turns variables into the authors' state dict, which PyTorch loads strictly: the inverse of `from_torch`.

    TPAVI's state dict holds no VGGish, so neither does what `from_torch` makes of one; here VGGish is left out.

    Args:
      variables: {"params": tree, "batch_stats": tree}, and `dead` where there is one; without it the entries that the
        authors' model never uses are zeros. {"params": gradients} gives the gradients in PyTorch's names and layout.
      config_model: `config.model`.

    Raises:
      ConversionError: arrays are missing, left over or of a wrong shape; the message lists them all.
    """
    apart = tables.kept_apart(config_model)
    own = {name: {part: tree[part] for part in tree if part not in apart} for name, tree in variables.items()}
    return rules.to_torch(own, tables.model(config_model))


def backbone_from_torch(state_dict: Mapping[str, np.ndarray], config_backbone) -> dict:
    """Turns the published file of a backbone into variables of `avs_jax.backbones.create(config_backbone)`.

    Known are the files of torchvision, timm, detectron2 (torchvision's weights; MSRA's are another network) and Hugging
    Face (ResNet-50), of the authors, timm and Hugging Face (PVT v2), of the authors and Hugging Face in both flavours
    and of timm and torchvision as classifiers (Swin), and the backbones inside AVSegFormer. A classifier's last layer
    is left out (it is among the `dead`); a Swin that detects starts from a classifier's file with output norms that
    change nothing.

    Raises:
      ConversionError: the entries follow none of these namings, or as in `from_torch`.
    """
    return backbone.from_torch(state_dict, config_backbone)


def backbone_to_torch(variables: Mapping, config_backbone, publisher: str) -> dict[str, np.ndarray]:
    """Turns a backbone's variables into a state dict under a publisher's names: the inverse of `backbone_from_torch`.

    Args:
      variables: {"params": tree, "batch_stats": tree}, and `dead` to have the entries that a backbone does not use.
      config_backbone: `config.model.backbone`.
      publisher: "torchvision", "timm", "detectron2", "huggingface", "authors" or "avsegformer".

    Raises:
      ConversionError: the publisher has no such backbone, or as in `to_torch`.
    """
    return backbone.to_torch(variables, config_backbone, publisher)


def vggish_from_torch(state_dict: Mapping[str, np.ndarray], config_vggish) -> dict:
    """Turns the published VGGish file (`vggish-10086976.pth`) into variables of `avs_jax.backbones.vggish.VGGish`.

    The names of TensorFlow's first release ("vggish/conv1/weights") are known as well, as arrays in a `.safetensors` or
    `.pkl` file; TensorFlow's own checkpoints are not read.

    Raises:
      ConversionError: as in `from_torch`.
    """
    return rules.from_torch(state_dict, tables.vggish(config_vggish, state_dict))
