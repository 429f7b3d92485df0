"""Weights to start from: tables of biases of another window, class heads of other classes, errors for the rest."""

import pathlib
import types

import jax
import numpy as np
import pytest
import rule

from avs_jax import backbones, convert, models
from avs_jax.convert import backbone, resizing, rules, tables
from configs import base

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
TABLES = {7: (169, 3), 12: (529, 2)}
BIAS = "params/backbone/stage1/plain/attn/relative_position_bias"
HEAD = "params/head/predictor/tail_2/kernel"


@pytest.mark.parametrize("old, new", [(7, 12), (12, 7), (7, 8)])
def test_a_table_is_resized_as_pytorch_s_bicubic_interpolation_does(old, new):
    """The fixture is PyTorch's `interpolate(mode="bicubic", align_corners=False)`."""
    table = rule.array(f"table/{old}", TABLES[old])
    expected = np.load(FIXTURES / "position_bias.npz")[f"from_{old}_to_{new}"]
    found = resizing.resize_position_bias(table, new)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=5e-7)
    stacked = resizing.resize_position_bias(np.stack([table, -table]), new)
    np.testing.assert_allclose(stacked, [found, -found], atol=1e-7)


def test_a_table_of_the_same_window_stays_and_a_constant_stays_constant():
    table = rule.array("table/7", TABLES[7])
    np.testing.assert_allclose(resizing.resize_position_bias(table, 7), table, atol=1e-7)
    np.testing.assert_allclose(resizing.resize_position_bias(np.full((169, 2), 3.0), 12), np.full((529, 2), 3.0))


@pytest.mark.parametrize("rows, window", [(1, 1), (9, 2), (169, 7), (529, 12), (4, None), (168, None), (0, None)])
def test_the_window_of_a_table(rows, window):
    assert resizing.window(rows) == window


def test_what_fits_stays_what_a_rule_covers_is_noted():
    arrays = {
        BIAS: np.ones((2, 9, 3), np.float32),
        HEAD: np.zeros((8, 1), np.float32),
        "params/backbone/norm1/scale": np.arange(3.0),
    }
    found, notes = resizing.resized(arrays, {BIAS: (2, 25, 3), HEAD: (8, 71), "params/backbone/norm1/scale": (3,)})
    assert found.keys() == arrays.keys() - {HEAD}
    np.testing.assert_allclose(found[BIAS], np.ones((2, 25, 3)))
    assert found["params/backbone/norm1/scale"] is arrays["params/backbone/norm1/scale"]
    assert notes == [
        f"{BIAS}: resized from windows of 2 x 2 tokens to 3 x 3",
        f"{HEAD}: from scratch, as the file has 1 classes and the model 71",
    ]


def test_every_other_difference_is_in_one_error():
    arrays = {
        BIAS: np.zeros((2, 9, 3)),  # other heads
        HEAD: np.zeros((9, 1)),  # another width
        "params/more": np.zeros(2),
        "params/a": np.zeros(4),
    }
    shapes = {BIAS: (2, 25, 6), HEAD: (8, 71), "params/a": (5,), "params/b": (6, 7)}
    with pytest.raises(convert.ConversionError) as error:
        resizing.resized(arrays, shapes)
    assert str(error.value).splitlines()[1:] == [
        "  missing: params/b (6, 7)",
        "  left over: params/more (2,)",
        f"  of a wrong shape: {BIAS} (2, 9, 3), expected (2, 25, 6)",
        f"  of a wrong shape: {HEAD} (9, 1), expected (8, 71)",
        "  of a wrong shape: params/a (4,), expected (5,)",
    ]


def swin(window, flavour="classification"):
    return types.SimpleNamespace(
        name="swin_t", depths=(2, 2, 4, 2), widths=(3, 6, 12, 24), drop_path=0.0, window=window, flavour=flavour
    )


def random_variables(module, *arguments):
    shapes = jax.eval_shape(module.init, jax.random.key(0), *arguments)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.standard_normal(x.shape, np.float32), dict(shapes))


@pytest.mark.parametrize("publisher", ["authors", "huggingface", "torchvision", "timm"])
def test_a_file_of_small_windows_starts_a_backbone_of_large_ones(publisher):
    variables = random_variables(backbones.create(swin(7)), np.zeros((1, 32, 32, 3), np.float32))
    file = convert.backbone_to_torch(variables, swin(7), publisher)
    file |= {"layers.0.blocks.1.attn_mask": np.zeros((64, 49, 49), np.float32)} if publisher == "authors" else {}
    with pytest.raises(convert.ConversionError, match=r"of a wrong shape: .*relative_position_bias_table \(169, 3\)"):
        convert.backbone_from_torch(file, swin(12))

    found, notes = backbone.to_start_from(file, swin(12))
    assert len(notes) == 8  # a stage's plain blocks, and its shifted ones
    assert "stage3/shifted/attn/relative_position_bias: resized from windows of 7 x 7 tokens to 12 x 12" in notes[5]
    table = "stage3", "shifted", "attn", "relative_position_bias"
    old, new = (at(tree["params"], table) for tree in (variables, found))
    np.testing.assert_array_equal(new, resizing.resize_position_bias(old, 12))
    shapes = jax.eval_shape(backbones.create(swin(12)).init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    assert jax.tree.map(np.shape, found["params"]) == jax.tree.map(np.shape, shapes["params"])
    np.testing.assert_array_equal(
        at(found["params"], ("merge1", "reduction", "kernel")),
        at(variables["params"], ("merge1", "reduction", "kernel")),
    )
    convert.backbone_to_torch(found, swin(12), publisher)  # nothing of the old window is left


def at(tree, path):
    for name in path:
        tree = tree[name]
    return tree


def test_a_classifier_s_file_starts_a_detector_of_other_windows():
    variables = random_variables(backbones.create(swin(2)), np.zeros((1, 32, 32, 3), np.float32))
    file = convert.backbone_to_torch(variables, swin(2), "torchvision")
    found, _ = backbone.to_start_from(file, swin(3, "detection"))
    np.testing.assert_array_equal(found["params"]["norm3"]["scale"], np.ones(12))


def test_blocks_of_different_windows_are_refused():
    variables = random_variables(backbones.create(swin(2)), np.zeros((1, 32, 32, 3), np.float32))
    file = convert.backbone_to_torch(variables, swin(2), "timm")
    file["layers.2.blocks.0.attn.relative_position_bias_table"] = np.zeros((25, 12), np.float32)
    with pytest.raises(convert.ConversionError, match="of a wrong shape: layers.2.blocks.0"):
        backbone.to_start_from(file, swin(2))


@pytest.mark.parametrize("system, head", [("avsegformer", "tail_2"), ("tpavi", "conv_2")])
def test_a_model_of_one_class_starts_one_of_71(system, head):
    one, many = (small_model(system, task) for task in ("ms3", "avss"))
    inputs = {"frames": np.zeros((1, 5, 32, 32, 3), np.float32), "log_mel": np.zeros((1, 5, 96, 64), np.float32)}
    variables = random_variables(models.create(one), inputs)
    file = convert.to_torch(variables, one)
    with pytest.raises(convert.ConversionError):
        convert.from_torch(file, many)

    found, notes = resizing.from_torch(file, tables.model(many))
    assert all(f"params/head/predictor/{head}/" in note and "1 classes and the model 71" in note for note in notes)
    assert len(notes) == (1 if system == "avsegformer" else 2)
    left_out = {note.partition(":")[0] for note in notes}
    own = {path for path in rules.flat(variables) if not (system == "tpavi" and path.startswith("params/vggish/"))}
    assert {path for path in rules.flat(found) if not path.startswith("dead/")} == own - left_out


def small_model(system, task):
    config = base.get_config(task, "swin_t,32", system=system).model
    config.backbone.update(depths=(2, 2, 2, 2), widths=(3, 6, 12, 24), window=2)
    config.vggish.update(widths=(2, 2, 3, 3), hidden_dim=8, embedding_dim=7)
    config.update(embed_dim=32, tail_dims=(8, 4))
    if system == "avsegformer":
        config.update(num_heads=4, num_queries=6, mlp_dim=24)
        for part in (config.query_generator, config.encoder, config.decoder):
            part.update(num_layers=1, ffn_dim=16)
    else:
        config.update(inter_dim=16, align_bias=True)
    return config
