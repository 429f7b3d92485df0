"""VCT's published weights: names and shapes of whole files, the way there and back, errors."""

from __future__ import annotations

import functools

import golden
import jax
import numpy as np
import pytest

from avs_jax import convert
from avs_jax.backbones import swin
from avs_jax.convert import ConversionError, rules
from avs_jax.convert.tables import vct as table
from avs_jax.models.vct import VCT
from tests.models.published_vct import published_config

FILES = {
    "vct_swinb384_s4": published_config("s4"),
    "vct_pvtv2_224_ms3": published_config("ms3", "pvt_v2_b5", 224),
}


def our_shapes(config):
    """The shape of every array of the model, by its path."""
    size = int((16 * config.query_generator.num_pixels) ** 0.5)
    shapes = {"frames": (size, size, 3), "pre_masks": (size, size, 3), "log_mel": (96, 64)}
    inputs = {name: jax.ShapeDtypeStruct((1, 1, *shape), np.float32) for name, shape in shapes.items()}
    variables = jax.eval_shape(VCT(config).init, jax.random.key(0), inputs)
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}


@functools.cache
def file_of_s4():
    """Every entry of S4's file, buffers among them; values count up, so that no two neighbours are equal."""
    manifest = golden.load("vct/vct_swinb384_s4").manifest
    made = {
        name: np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        for name, shape in manifest["state_dict"].items()
    }
    for name, shape in manifest["not_from_rule"].items():
        made[name] = swin.relative_position_index(12) if len(shape) == 2 else np.array([1, 1, 0.1], np.float32)
    return made


@pytest.mark.parametrize("name", FILES)
def test_the_table_lists_a_files_entries_and_the_models_arrays(name):
    entries = table.entries(FILES[name])
    manifest = golden.load(f"vct/{name}").manifest
    published = manifest["state_dict"] | manifest.get("not_from_rule", {})
    listed = {entry.source: list(entry.shape) for entry in entries}
    assert {name: shape for name, shape in listed.items() if name in published} == published
    assert set(listed) - set(published) <= {"criterion.empty_weight"}
    assert rules.shapes(entries) == our_shapes(FILES[name])


@pytest.mark.parametrize(
    "changes",
    ({"pre_masks": False}, {"num_classes": 71}),
    ids=("without pre-masks", "71 classes"),
)
def test_the_table_follows_the_configuration(changes):
    config = published_config("s4", **changes)
    assert rules.shapes(table.entries(config)) == our_shapes(config)


def test_a_resnets_table_has_detectron2s_names():
    config = published_config("s4", "resnet50", 224)
    entries = table.entries(config)
    assert rules.shapes(entries) == our_shapes(config)
    names = {entry.source for entry in entries}
    assert {
        "backbone.stem.conv1.weight",
        "backbone.stem.conv1.norm.running_var",
        "backbone.res2.0.shortcut.norm.weight",
        "pre_sam_backbone.res5.2.conv3.weight",
    } <= names
    assert not [name for name in names if "num_batches_tracked" in name]


def test_a_whole_file_there_and_back():
    file, config = file_of_s4(), FILES["vct_swinb384_s4"]
    back = convert.to_torch(convert.from_torch(file, config), config)
    assert set(back) == set(file)
    for name, array in file.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)


def test_weights_for_another_size_of_image_are_refused():
    config = published_config("s4", size=224)
    config.backbone.window = 12
    with pytest.raises(ConversionError, match=r"query_mixer.layers.0.weight \(256, 9216\), expected \(256, 3136\)"):
        convert.from_torch(file_of_s4(), config)


@pytest.mark.parametrize(
    "changes", ({"variant": "paper"}, {"fusion": "add"}, {"query_generator": {"grouping": "softmax"}})
)
def test_what_the_authors_never_published_is_refused(changes):
    with pytest.raises(ConversionError, match="the authors' files hold the weights of model.variant='released'"):
        table.entries(published_config("s4", **changes))
