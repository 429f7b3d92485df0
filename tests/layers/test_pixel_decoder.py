"""The pixel decoder against the published one."""

from __future__ import annotations

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from avs_jax.convert import rules
from avs_jax.convert.tables import mask2former
from avs_jax.layers.pixel_decoder import PixelDecoder
from avs_jax.layers.position import map_position

CONFIG = ConfigDict(
    {"embed_dim": 256, "num_heads": 8, "pixel_decoder": {"num_layers": 6, "num_points": 4, "ffn_dim": 1024}}
)
CHANNELS = (128, 256, 512, 1024)


@pytest.mark.parametrize("shape", ((6, 4), (12, 12), (5, 9)))
def test_position_of_a_maps_cells(shape):
    encoded = np.asarray(map_position(shape, 256)).reshape(1, *shape, 256).transpose(0, 3, 1, 2)
    assert golden.load("vct/position_sine").check(f"{shape[0]}x{shape[1]}", encoded).max_abs < 1e-5


def test_the_published_pixel_decoder():
    case = golden.load("vct/pixel_decoder_swinb384")
    table = mask2former.pixel_decoder(CONFIG, CHANNELS, mask2former.DETECTRON2, "decoder")
    params = rules.from_torch(case.state_dict, table)["params"]["decoder"]
    maps = [case.inputs[name].transpose(0, 2, 3, 1) for name in ("res2", "res3", "res4", "res5")]

    apply = jax.jit(lambda params, maps: PixelDecoder().apply({"params": params}, maps, mutable=["intermediates"]))
    (mask_features, levels), sown = apply(params, maps)
    found = {
        "encoder_layer0": sown["intermediates"]["encoder_0"][0],
        "mask_features": mask_features.transpose(0, 3, 1, 2),
        **{f"multi_scale/{i}": level.transpose(0, 3, 1, 2) for i, level in enumerate(levels)},
    }
    assert set(found) == set(case.outputs)
    for name, array in found.items():
        difference = case.check(name, array)
        assert difference.max_abs < 1e-4 * difference.golden_max_abs, name


def test_rematerialisation_changes_no_value_and_no_gradient():
    rng = np.random.default_rng(0)
    maps = [rng.standard_normal((2, 16 // s, 24 // s, 8)).astype(np.float32) for s in (1, 2, 4, 8)]
    sizes = {"features": 32, "num_layers": 1, "num_heads": 2, "num_points": 2, "ffn_dim": 16}
    shapes = jax.eval_shape(PixelDecoder(**sizes).init, jax.random.key(0), maps)
    params = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32) / 4, shapes)

    def run(remat):
        def loss(params):
            mask_features, _ = PixelDecoder(remat=remat, **sizes).apply(params, maps)
            return jnp.mean(mask_features**2)

        return jax.jit(jax.value_and_grad(loss))(params)

    (kept, gradients), (again, gradients_again) = run("none"), run("blocks")
    np.testing.assert_allclose(kept, again, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradients, gradients_again)
