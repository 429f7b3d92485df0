"""Whole models at full size against the numbers of the authors' implementation, tensor by tensor."""

import functools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax import convert, losses, models
from configs import avss, s4

FORWARD = 2e-4  # absolute, what two correct float32 implementations meet
GRADIENT = 2e-3  # relative l2: units of the 2048-wide ReLU MLP near zero switch side

CONFIGS = {"r50": "resnet50", "pvtv2": "pvt_v2_b5"}
# What the authors' tensors are called, and what ours are sown as, where that differs.
RENAMED = {"audio_feature": "audio_feat"}


def configuration(case):
    backbone, task = case.name.rsplit("/", 1)[1].removeprefix("avsegformer_").removeprefix("grad_").split("_")[:2]
    return (avss if task == "avss" else s4).get_config(f"{CONFIGS[backbone]},224")


def inputs(case, clip=5):
    """The case's inputs in our layout, its frames as clips of `clip` frames."""
    frames = case.inputs["frames"].transpose(0, 2, 3, 1)
    found = {
        "frames": frames.reshape(-1, clip, *frames.shape[1:]),
        "log_mel": case.inputs["audio"].reshape(-1, clip, 96, 64),
    }
    if "vid_temporal_mask_flag" in case.manifest["inputs"]:
        found["frame_valid"] = case.inputs["vid_temporal_mask_flag"].reshape(-1, clip) > 0
    return found


def torch_layout(x, shape):
    """(N, h, w, C) -> (N, C, h, w), clips folded; tokens stay (N, L, C)."""
    x = np.asarray(x)
    if x.ndim == 5:
        x = x.reshape(-1, *x.shape[2:])
    x = np.moveaxis(x, -1, 1) if x.ndim == 4 else x
    return x.reshape(shape)


@functools.cache
def weights(name):
    case = golden.load(f"avsegformer/{name}")
    return convert.from_torch(case.state_dict | counters(case), configuration(case).model)


def counters(case):
    """The batch-norm counters, which are integers and so not in `case.state_dict`'s floats."""
    shapes = case.manifest["state_dict"]
    return {key: np.zeros((), np.int64) for key in shapes if key.endswith("num_batches_tracked")}


@pytest.mark.parametrize("name", ["avsegformer_r50_s4", "avsegformer_pvtv2_s4", "avsegformer_pvtv2_avss"])
def test_every_tensor_of_the_forward_pass(name):
    case = golden.load(f"avsegformer/{name}")
    config = configuration(case)
    model = models.create(config.model)

    @jax.jit
    def forward(variables, batch):
        return model.apply(variables, batch, train=False, mutable=["intermediates"])

    variables = {key: weights(name)[key] for key in ("params", "batch_stats")}
    outputs, state = forward(variables, inputs(case, clip=len(case.inputs["frames"])))
    found = flatten(state["intermediates"])
    found |= {"pred": outputs.mask_logits, "mask_feature": outputs.mask_features}
    wrong = {}
    for key in case.outputs:
        shape = case.manifest["outputs"][key]["full"]["shape"]
        difference = case.check(key, torch_layout(found[RENAMED.get(key, key)], shape)).max_abs
        if not difference < FORWARD:
            wrong[key] = difference
    assert not wrong


def flatten(tree):
    """{name: array} of everything sown by the authors' names, wherever in the tree."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        keys = [entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)]
        found.setdefault(keys[-1], leaf)
    return found
