"""ResNet-50, PVT v2 and VGGish with the authors' names of weights give the features of the authors' code."""

import functools
import types

import golden
import jax
import numpy as np
import pytest

from avs_jax import backbones, convert
from avs_jax.backbones.vggish import VGGish

TOLERANCE = 2e-4  # absolute, what two correct float32 implementations meet
SETTINGS = {"depths": (), "widths": (), "drop_path": 0.1}
IMAGES = {"160x256": (160, 256), "zeros_64": (64, 64)}  # of 224 pixels are the features of the whole models


@functools.cache
def converted(case_name, backbone):
    case, config = golden.load(case_name), types.SimpleNamespace(name=backbone, **SETTINGS)
    variables = convert.backbone_from_torch(case.state_dict, config)
    return case, backbones.create(config), {k: v for k, v in variables.items() if k != "dead"}


def features(case, module, variables, image):
    """The four maps and what was sown, in PyTorch's layout."""
    if image.startswith("zeros"):
        frames = np.zeros((1, *IMAGES[image], 3), np.float32)
    else:
        frames = case.inputs[f"image_{image}"].transpose(0, 2, 3, 1)
    maps, sown = jax.jit(functools.partial(module.apply, mutable=["intermediates"]))(variables, frames)
    found = {f"stage_{i}": feature for i, feature in enumerate(maps)}
    found |= {name: value[0] for name, value in sown.get("intermediates", {}).items()}
    return {name: np.asarray(value).transpose(0, 3, 1, 2) for name, value in found.items()}


@pytest.mark.parametrize("image", IMAGES)
def test_resnet_50(image):
    case, module, variables = converted("avsegformer/resnet50_features", "resnet50")
    found = features(case, module, variables, image)
    assert case.check(f"maxpool/{image}", found["max_pool"]).max_abs < TOLERANCE
    for i in range(4):
        assert case.check(f"stage_{i}/{image}", found[f"stage_{i}"]).max_abs < TOLERANCE


@pytest.mark.parametrize("image", IMAGES)
def test_pvt_v2_b5(image):
    """A black frame has small variances: it tells the epsilons of the norms apart."""
    case, module, variables = converted("avsegformer/pvtv2_b5_features", "pvt_v2_b5")
    found = features(case, module, variables, image)
    for i in range(4):
        assert case.check(f"stage_{i}/{image}", found[f"stage_{i}"]).max_abs < TOLERANCE


def test_vggish():
    case, config = golden.load("avsegformer/vggish"), types.SimpleNamespace(**vars(VGGish()))
    variables = convert.vggish_from_torch(case.state_dict, config)
    apply = jax.jit(functools.partial(VGGish().apply, mutable=["intermediates"]))
    log_mel = np.concatenate([case.inputs["log_mel"][:, 0], np.zeros((1, 96, 64), np.float32)])
    embedding, sown = apply({"params": variables["params"]}, log_mel)
    for i, layer in enumerate((2, 5, 10, 15)):
        pooled = np.asarray(sown["intermediates"][f"pool{i}"][0])[:5].transpose(0, 3, 1, 2)
        assert case.check(f"features_{layer}", pooled).max_abs < TOLERANCE
    assert case.check("embedding", embedding[:5]).max_abs < TOLERANCE
    assert case.check("embedding_zero", embedding[5:]).max_abs < TOLERANCE
