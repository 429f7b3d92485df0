"""Mask2Former's checkpoints, of detectron2 and Hugging Face: the pixel decoder and the masked decoder in them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from avs_jax import backbones
from avs_jax.convert import rules
from avs_jax.convert.rules import Table
from avs_jax.convert.tables import mask2former as tables
from avs_jax.layers.pixel_decoder import NUM_LEVELS

PUBLISHERS = {"detectron2": tables.DETECTRON2, "huggingface": tables.HUGGINGFACE}
_HEADS = {
    "detectron2": ("sem_seg_head.",),
    "huggingface": ("model.pixel_level_module.decoder.", "model.transformer_module.", "class_predictor."),
}


def from_torch(state_dict: Mapping[str, np.ndarray], config) -> dict:
    """Turns the state dict of a whole Mask2Former into parameters of our layers; its backbone is left alone.

    Args:
      state_dict: {name: array} of detectron2 or of Hugging Face's `Mask2FormerForUniversalSegmentation`.
      config: num_classes (150 of ADE20K; "no object" not counted), num_queries, embed_dim, num_heads, pixel_decoder
        (num_layers, num_points, ffn_dim), decoder (num_layers, ffn_dim), and backbone, as in config.model.

    Returns:
      {"pixel_decoder": the params of a `PixelDecoder`, "decoder": the params of a `MaskedDecoder`}.

    Raises:
      ConversionError: entries are missing, left over or of a wrong shape; the message lists them all.
    """
    publisher = (
        "huggingface" if any(name.startswith("model.transformer_module.") for name in state_dict) else "detectron2"
    )
    heads = {name: array for name, array in state_dict.items() if name.startswith(_HEADS[publisher])}
    return rules.from_torch(heads, _table(config, publisher))["params"]


def to_torch(params: Mapping, config, publisher: str) -> dict[str, np.ndarray]:
    """Turns such parameters back into a state dict, without the backbone: the inverse of `from_torch`.

    Raises:
      ConversionError: arrays are missing, left over or of a wrong shape, or nobody is called `publisher`.
    """
    if publisher not in PUBLISHERS:
        raise rules.ConversionError(
            f"no publisher of Mask2Former is called {publisher!r}; known: {', '.join(PUBLISHERS)}"
        )
    return rules.to_torch({"params": params}, _table(config, publisher))


def _table(config, publisher: str) -> Table:
    names, channels = PUBLISHERS[publisher], backbones.channels(config.backbone)
    table = tables.pixel_decoder(config, channels, names, "pixel_decoder")
    return table + tables.decoder(config, config.num_classes, NUM_LEVELS, names, "decoder")
