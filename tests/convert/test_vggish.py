"""VGGish under the names of its first release, TensorFlow's, against the network written out."""

import types

import numpy as np
import pytest

from avs_jax.backbones.vggish import VGGish
from avs_jax.convert import rules, tables


@pytest.mark.parametrize("suffix", ["", ":0"])
def test_vggish_under_the_names_of_its_first_release(suffix):
    settings = types.SimpleNamespace(widths=(2, 3, 4, 5), hidden_dim=6, embedding_dim=7)
    layers = {  # of vggish_slim.py
        "conv1": (3, 3, 1, 2),
        "conv2": (3, 3, 2, 3),
        "conv3/conv3_1": (3, 3, 3, 4),
        "conv3/conv3_2": (3, 3, 4, 4),
        "conv4/conv4_1": (3, 3, 4, 5),
        "conv4/conv4_2": (3, 3, 5, 5),
        "fc1/fc1_1": (6 * 4 * 5, 6),
        "fc1/fc1_2": (6, 6),
        "fc2": (6, 7),
    }
    rng = np.random.default_rng(0)
    file = {f"vggish/{name}/weights{suffix}": rng.standard_normal(shape, np.float32) for name, shape in layers.items()}
    file |= {f"vggish/{name}/biases{suffix}": np.zeros(shape[-1], np.float32) for name, shape in layers.items()}
    table = tables.vggish(settings, file)
    variables = rules.from_torch(file, table)
    back = rules.to_torch(variables, table)
    assert back.keys() == file.keys()
    assert all(np.array_equal(back[name], array) for name, array in file.items())
    log_mel = rng.standard_normal((2, 96, 64), np.float32)
    module = VGGish(**vars(settings))
    expected = vggish_by_definition(file, suffix, layers, log_mel)
    np.testing.assert_allclose(module.apply({"params": variables["params"]}, log_mel), expected, rtol=1e-4, atol=1e-3)


def vggish_by_definition(file, suffix, layers, log_mel):
    """The network on (N, 96, 64), layer by layer, in float64."""
    x = np.float64(log_mel)[..., None]
    for name in layers:
        kernel, bias = (np.float64(file[f"vggish/{name}/{kind}{suffix}"]) for kind in ("weights", "biases"))
        if name.startswith("conv"):
            padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
            taps = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
            x = np.maximum(np.einsum("nhwcij,ijco->nhwo", taps, kernel) + bias, 0)
            if name[-2:] != "_1":  # a 2x2 max pool ends the stage
                n, h, w, c = x.shape
                x = x.reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))
        else:
            x = np.maximum(x.reshape(len(x), -1) @ kernel + bias, 0)
    return x
