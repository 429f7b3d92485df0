"""Where every parameter of the real configurations lies: the frozen tables, the rules, the bytes of a device."""

import functools
import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from avs_jax import models, parallel
from avs_jax.parallel import axes, rules
from avs_jax.parallel import mesh as meshes
from avs_jax.train import optimizer
from avs_jax.train import state as states
from avs_jax.train.feed import example_batch

# python -c "from tests.parallel import test_rules; test_rules.write_tables()" writes them anew.
TABLES = pathlib.Path(__file__).parent / "tables"
FROZEN = ("s4:resnet50", "s4:pvt_v2_b5", "avss", "vct_s4:swin_b", "tpavi_s4")


def mesh_of(data=1, fsdp=1, tensor=1):
    return AbstractMesh((data, fsdp, tensor), meshes.AXES, axis_types=(AxisType.Auto,) * 3)


@functools.cache
def shapes(name, **changes):
    """The shapes of a configuration's training state, AdamW's moments and the average of the parameters among them."""
    file, _, argument = name.partition(":")
    config = importlib.import_module(f"configs.{file}").get_config(argument).unlock()
    for key, value in changes.items():
        config.model[key] = value
    tx = optimizer.create(config.optimizer, 100, {}, optimizer.never_trained(config.model))
    batch = example_batch(config)
    if config.model.get("pre_masks", False):
        batch["pre_masks"] = batch["frames"]
    return jax.eval_shape(states.init_fn(models.create(config.model), tx, batch, 0, ema=True))


def lines(name):
    return "\n".join(parallel.table(shapes(name), mesh_of(fsdp=4, tensor=2))) + "\n"


def path_of(name):
    return TABLES / f"{name.replace(':', '_')}.txt"


def write_tables():
    for name in FROZEN:
        path_of(name).write_text(lines(name))


@pytest.mark.parametrize("name", FROZEN)
def test_the_table_is_the_frozen_one(name):
    assert lines(name) == path_of(name).read_text()


@pytest.mark.parametrize(
    "name, changes",
    [
        ("ms3:swin_b", {"variant": "paper", "mixer": "cross"}),
        ("vct_ms3:resnet50", {"variant": "paper", "fusion": "concat", "pre_masks": True}),
        ("tpavi_avss:resnet50", {"visual_visual": True}),
    ],
)
def test_every_parameter_of_other_configurations_is_named(name, changes):
    assert list(rules.place(shapes(name, **changes).params, mesh_of(fsdp=8)))


@pytest.mark.parametrize("name", FROZEN)
def test_fsdp_over_eight_devices_leaves_little_more_than_an_eighth_on_each(name):
    whole, parts = (rules.bytes_per_device(shapes(name), mesh_of(**sizes)) for sizes in ({"data": 8}, {"fsdp": 8}))
    for field in ("params", "opt_state", "ema_params"):
        assert parts[field] < whole[field] / 7.5
    every = jax.tree.leaves(shapes(name).params)
    assert whole["params"] == sum(np.prod(x.shape, dtype=int) * x.dtype.itemsize for x in every)


def test_moments_and_averages_lie_as_their_parameters():
    layout = parallel.shardings(shapes("vct_s4:swin_b"), mesh_of(fsdp=4, tensor=2))
    named = {jax.tree_util.keystr(path): leaf.spec for path, leaf in jax.tree_util.tree_leaves_with_path(layout.params)}
    assert {jax.tree_util.keystr(p): x.spec for p, x in jax.tree_util.tree_leaves_with_path(layout.ema_params)} == named
    moments = [(jax.tree_util.keystr(p), x.spec) for p, x in jax.tree_util.tree_leaves_with_path(layout.opt_state)]
    trained = [name for name in named if not name.startswith("['vggish']")]
    for kind in (".mu", ".nu"):
        found = {name.partition(kind)[2]: spec for name, spec in moments if kind in name}
        assert found == {name: named[name] for name in trained}
    assert layout.step.spec == layout.rng.spec == PartitionSpec()


@pytest.mark.parametrize(
    "names, shape, sizes, expected",
    [
        (("embed", "mlp"), (256, 2048), {"fsdp": 8}, (None, "fsdp")),
        (("embed", "mlp"), (256, 2048), {"fsdp": 4, "tensor": 2}, ("fsdp", "tensor")),
        (("mlp", "embed"), (2048, 256), {"tensor": 2}, ("tensor",)),
        (("queries", "embed"), (300, 256), {"fsdp": 8}, (None, "fsdp")),  # 8 does not divide 300
        (("layers", "norm"), (40, 320), {"fsdp": 8}, ()),  # layers are taken one by one
        (("layers", "embed", "heads"), (40, 320, 320), {"fsdp": 8}, (None, None, "fsdp")),
        (("embed", "heads"), (30, 210), {"fsdp": 4, "tensor": 4}, ()),
        (("embed", "heads"), (16, 16), {"fsdp": 4}, ()),  # too small
        (("height", "width", "conv_in", "conv_out"), (3, 3, 256, 128), {"fsdp": 8}, (None, None, "fsdp")),
    ],
)
def test_a_parameter_is_split_along_its_longest_axis_that_can_be(names, shape, sizes, expected):
    assert rules.partition_spec(names, shape, mesh_of(**sizes).shape) == PartitionSpec(*expected)


@pytest.mark.parametrize(
    "path, rank, message",
    [
        ("head/new_layer/kernel", 2, "parameter head/new_layer/kernel: 0 lines fit; name its axes"),
        ("head/decoder/layers/ffn/linear1/kernel", 2, r"\('layers', 'embed', 'mlp'\) does not fit its 2 axes"),
        ("head/decoder/surprise", 1, "parameter head/decoder/surprise: 0 lines fit"),
    ],
)
def test_a_parameter_without_named_axes_is_an_error(path, rank, message):
    with pytest.raises(axes.AxesError, match=message):
        axes.logical_axes(path, rank)


def test_every_named_axis_has_a_rule():
    named = {name for line in (*axes.MODULES.values(), *axes.ARRAYS.values()) for name in line}
    assert named | {"layers"} == set(rules.RULES)


def test_without_a_mesh_nothing_is_held_to_a_layout():
    params = {"audio_proj": {"kernel": jnp.ones((8, 32))}}
    assert parallel.collected(params) is params
    assert meshes.keep_split(params) is params


@pytest.mark.parametrize(
    "sizes, devices, expected",
    [
        ((-1, 1, 1), 8, (8, 1, 1)),
        ((-1, 4, 1), 8, (2, 4, 1)),
        ((2, -1, 2), 8, (2, 2, 2)),
        ((1, 1, 1), 1, (1, 1, 1)),
    ],
)
def test_a_mesh_takes_what_is_left(sizes, devices, expected):
    assert meshes.shape_of(dict(zip(meshes.AXES, sizes, strict=True)), devices) == expected


@pytest.mark.parametrize("sizes, devices", [((-1, 3, 1), 8), ((2, 2, 1), 8), ((16, 1, 1), 8), ((-1, 16, 1), 8)])
def test_a_mesh_that_the_devices_do_not_fill_is_an_error(sizes, devices):
    with pytest.raises(
        meshes.MeshError, match=f"config.mesh: {devices} devices cannot be split into data {sizes[0]} x"
    ):
        meshes.shape_of(dict(zip(meshes.AXES, sizes, strict=True)), devices)
