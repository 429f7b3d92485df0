"""Models on a Swin: from the configuration to masks, and their weights to PyTorch's names and back."""

import importlib

import jax
import numpy as np
import pytest

from avs_jax import backbones, config, convert, models
from tests.quick import quick_compilation  # noqa: F401

KINDS = {  # of each backbone, sizes at which its parts still do their work
    "swin_t": {"depths": (2, 2, 2, 2), "widths": (3, 6, 12, 24), "window": 2},
    "swin_b": {"depths": (2, 2, 2, 2), "widths": (4, 8, 16, 32), "window": 3, "flavour": "classification"},
}


def small(system, backbone):
    """config.model of S4 at small sizes."""
    name = "s4" if system == "avsegformer" else "tpavi_s4"
    made = importlib.import_module(f"configs.{name}").get_config(f"{backbone},64").unlock()
    model = made.model
    model.backbone.update(KINDS[backbone])
    model.vggish.update(widths=(2, 2, 3, 3), hidden_dim=8, embedding_dim=7)
    model.update(embed_dim=32, tail_dims=(8, 4))
    if system == "avsegformer":
        model.update(num_heads=4, num_queries=6, mlp_dim=24)
        for part in (model.query_generator, model.encoder, model.decoder):
            part.update(num_layers=1, ffn_dim=16)
    config.validate(made)
    return model


def random_variables(model, inputs):
    shapes = jax.eval_shape(model.init, jax.random.key(0), inputs)
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda x: np.float32(0.1) * rng.standard_normal(x.shape, np.float32), shapes["params"])
    statistics = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes.get("batch_stats", {}))
    return {"params": params, "batch_stats": statistics}


@pytest.mark.parametrize(
    "system, backbone", [("avsegformer", "swin_t"), ("avsegformer", "swin_b"), ("tpavi", "swin_t")]
)
def test_a_model_runs_on_a_swin(system, backbone):
    settings, rng = small(system, backbone), np.random.default_rng(0)
    model = models.create(settings)
    inputs = models.prepare({"frames": rng.integers(0, 256, (1, 5, 64, 64, 3), np.uint8)})
    inputs["log_mel"] = rng.standard_normal((1, 5, 96, 64), np.float32)
    variables = random_variables(model, inputs)
    outputs = jax.jit(model.apply)(variables, inputs)
    assert outputs.mask_logits.shape == (1, 5, 64, 64, 1)
    assert np.isfinite(outputs.mask_logits).all()
    assert np.ptp(outputs.mask_logits) > 0
    projected = variables["params"]["head"]
    key = {"avsegformer": "input_conv_3", "tpavi": "dilated_3"}[system]
    assert jax.tree.leaves(projected[key])[-1].shape[-2] == backbones.channels(settings.backbone)[-1]

    there = convert.to_torch(variables, settings)
    back = convert.from_torch(there, settings)["params"]
    own = {part: variables["params"][part] for part in back}
    assert set(own) >= {"backbone", "head"}
    jax.tree.map(np.testing.assert_array_equal, back, own)


@pytest.mark.parametrize("name, argument, rows", [("s4", "swin_b,224", 13 * 13), ("tpavi_avss", "swin_b,384", 23 * 23)])
def test_a_published_swin_comes_from_the_command_line(name, argument, rows):
    made = importlib.import_module(f"configs.{name}").get_config(argument)
    config.validate(made)
    frames, (height, width) = made.data.num_frames, made.data.image_size
    inputs = {
        "frames": jax.ShapeDtypeStruct((1, frames, height, width, 3), np.float32),
        "audio_embedding": jax.ShapeDtypeStruct((1, frames, 128), np.float32),
    }
    outputs, variables = jax.eval_shape(models.create(made.model).init_with_output, jax.random.key(0), inputs)
    assert outputs.mask_logits.shape == (1, frames, height, width, made.model.num_classes)
    bias = variables["params"]["backbone"]["stage3"]["shifted"]["attn"]["relative_position_bias"]
    assert bias.shape == (9, rows, 16)
