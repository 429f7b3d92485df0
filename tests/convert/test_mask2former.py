"""A whole Mask2Former of Hugging Face in our layers; names of both publishers."""

from __future__ import annotations

import golden
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from avs_jax import backbones, convert
from avs_jax.convert import ConversionError, mask2former
from avs_jax.layers.mask_decoder import MaskedDecoder
from avs_jax.layers.pixel_decoder import PixelDecoder
from tests.models.published_vct import nchw, nhwc

TOLERANCE = 1e-4  # of an array's range
ENCODER = "model.pixel_level_module.encoder."
NORMS = f"{ENCODER}hidden_states_norms.stage"
CONFIG = ConfigDict(
    {
        "num_classes": 150, "num_queries": 100, "embed_dim": 256, "num_heads": 8,
        "pixel_decoder": {"num_layers": 6, "num_points": 4, "ffn_dim": 1024},
        "decoder": {"num_layers": 9, "ffn_dim": 2048},
        "backbone": {
            "name": "swin_b", "depths": (), "widths": (), "drop_path": 0.3, "window": 12, "flavour": "detection",
        },
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def case():
    return golden.load("mask2former/mask2former_swin_base_384_spread")


def backbone_params(case):
    """Of our Swin: a file's entries are those of Hugging Face's classifier, and the norms of the four maps."""
    blocks = {
        name.replace(ENCODER, "swin."): array
        for name, array in case.state_dict.items()
        if name.startswith(ENCODER) and not name.startswith(NORMS)
    }
    unused = {f"swin.layernorm.{leaf}": np.zeros(1024, np.float32) for leaf in ("weight", "bias")}
    params = convert.backbone_from_torch(blocks | unused, CONFIG.backbone)["params"]
    for i in range(1, 5):
        weight, bias = (case.state_dict[f"{NORMS}{i}.{leaf}"] for leaf in ("weight", "bias"))
        params[f"norm{i}"] = {"scale": weight, "bias": bias}
    return params


def test_a_whole_mask2former(case):
    params = mask2former.from_torch(case.state_dict, CONFIG) | {"backbone": backbone_params(case)}

    @jax.jit
    def run(params, frames):
        maps = backbones.create(CONFIG.backbone).apply({"params": params["backbone"]}, frames)
        mask_features, levels = PixelDecoder().apply({"params": params["pixel_decoder"]}, maps)
        decoder = MaskedDecoder(CONFIG.num_queries, CONFIG.num_classes)
        return maps, mask_features, levels, decoder.apply({"params": params["decoder"]}, levels, mask_features)

    maps, mask_features, levels, predictions = run(params, nhwc(case.inputs["pixel_values"]))
    found = {f"backbone_stage{i}": nchw(x) for i, x in enumerate(maps, 1)}
    found |= {f"pixel_decoder_level{i}": nchw(x) for i, x in enumerate(levels)}
    found |= {f"aux{i}_class": predictions.class_logits[i] for i in range(9)}
    found |= {f"aux{i}_masks": predictions.mask_logits[i] for i in range(9)}
    found |= {
        "mask_features": nchw(mask_features),
        "class_queries_logits": predictions.class_logits[9],
        "masks_queries_logits": predictions.mask_logits[9],
    }
    assert set(case.outputs) - set(found) == {"transformer_decoder_last_hidden_state"}
    for name, array in found.items():
        difference = case.check(name, array)
        near_ties = case.manifest["outputs"][name]["float64_rerun"]["max_abs_err"]  # of attention masks
        assert difference.max_abs < max(TOLERANCE * difference.golden_max_abs, near_ties), name


@pytest.mark.parametrize("publisher", mask2former.PUBLISHERS)
def test_there_and_back(case, publisher):
    params = mask2former.from_torch(case.state_dict, CONFIG)
    state_dict = mask2former.to_torch(params, CONFIG, publisher)
    again = mask2former.from_torch(state_dict, CONFIG)
    jax.tree.map(np.testing.assert_array_equal, params, again)
    if publisher == "huggingface":
        for name, array in state_dict.items():
            np.testing.assert_array_equal(array, case.state_dict[name])


def test_what_does_not_fit_is_listed(case):
    state_dict = dict(case.state_dict)
    del state_dict["class_predictor.bias"]
    state_dict["model.transformer_module.level_embed.weight"] = np.zeros((4, 256), np.float32)
    with pytest.raises(ConversionError, match=r"1 missing, 1 of a wrong shape(.|\n)*class_predictor.bias \(151,\)"):
        mask2former.from_torch(state_dict, CONFIG)
    with pytest.raises(ConversionError, match="no publisher of Mask2Former is called 'timm'"):
        mask2former.to_torch({}, CONFIG, "timm")
