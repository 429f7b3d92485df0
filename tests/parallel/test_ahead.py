"""Compiling ahead of time, for this machine, and lowered for others. For TPUs .ci/run does it, where libtpu is; CUDA's
compiler is too large for that, so what it is asked for is tested alone."""

import re
import types

import jax
import jax.numpy as jnp
import pytest

from avs_jax import ahead_of_time
from avs_jax.benchmark import cost
from avs_jax.layers import attention, sampling
from avs_jax.parallel import ahead
from avs_jax.parallel import mesh as meshes
from avs_jax.train import demo_data
from avs_jax.train.feed import Feed, evaluation_batches, for_device
from tests.integration import tiny, tiny_vct

SHAPES = ((2, 2), (4, 4))
# The smallest configuration of a system, and where its deformable encoder is.
SYSTEMS = {"avsegformer": (tiny, "head/encoder"), "vct": (tiny_vct, "pixel_decoder")}


def sizes(lines, name):
    """{"arguments": GiB, ...} that a report says of a step."""
    start = next(i for i, line in enumerate(lines) if line.startswith(f"{name}: "))
    memory = next(line for line in lines[start:] if "memory of a device" in line)
    parts = memory[memory.index("(") + 1 : memory.index(")")].split(", ")
    return {part.split()[0]: float(part.split()[1]) for part in parts}


@pytest.fixture(params=SYSTEMS)
def config(request):
    return SYSTEMS[request.param][0].get_config().unlock()


@pytest.fixture(scope="module", params=SYSTEMS)
def lowered(request):
    """The report of a training step for eight GPUs, parameters split over four."""
    config = SYSTEMS[request.param][0].get_config().unlock()
    config.mesh.update(data=2, fsdp=4)
    config.train.batch_size = 8
    platforms = jax.config.jax_platforms
    yield config, list(ahead_of_time.report(config, "cuda:8", steps=["train"]))
    jax.config.update("jax_platforms", platforms)


def test_a_report_shows_the_layout_the_operations_and_what_is_not_known(lowered):
    config, lines = lowered
    encoder = SYSTEMS[config.model.name][1]
    assert lines[0] == "cuda:8, data 2 x fsdp 4 x tensor 1"
    row = next(line for line in lines if line.startswith(f"{encoder}/layers/self_attn/output_proj/kernel"))
    assert row.split() == [row.split()[0], *"1 1 x 32 x 32 layers heads embed - - fsdp 1,024".split()]
    assert any(line.startswith("train: a batch of 8 x 1 frames, ") for line in lines)
    assert any("memory of a device: at least " in line for line in lines)
    assert any("Lowered for CUDA, not compiled" in line for line in lines)


def test_the_memory_of_arguments_is_that_of_the_state_and_the_batch(lowered):
    config, lines = lowered
    sums = re.findall(r"^\w+: ([\d,]+) bytes on a device$", "\n".join(lines), re.MULTILINE)
    held = sum(int(each.replace(",", "")) for each in sums)
    assert len(sums) == 5
    batch = ahead_of_time._batch(config, ahead_of_time._mesh(config, ahead.target("cuda:8")), training=True)
    clip = sum(value.size // value.shape[0] * value.dtype.itemsize for value in batch.values())
    assert abs(sizes(lines, "train")["arguments"] - (held + clip) / ahead.GIB) < 1e-3


def test_a_step_compiles_for_this_machine_and_fails_where_it_does_not_fit(config):
    *_, memory, count, instructions = ahead_of_time.report(config, steps=["predict"])
    assert memory.startswith("  memory of a device: 0.0") and "temporaries" in memory
    assert "GFLOP" in count and int(instructions.split()[0].replace(",", "")) > 500
    with pytest.raises(
        ahead.AheadError, match=r"predict does not fit 1 x cpu: 0\.0\d+ GiB on a device that has 0\.0001"
    ):
        list(ahead_of_time.report(config, memory_gb=1e-4, steps=["predict"]))


@pytest.mark.parametrize("alone", [True, False])
def test_batches_have_the_loaders_shapes(tiny_config, tmp_path, alone):
    tiny_config.data.records = str(tmp_path)
    tiny_config.data.synthetic.update(train=4, val=2, test=2)
    tiny_config.train.supervised_frames_only = tiny_config.eval.annotated_frames_only = alone
    demo_data.ensure_records(tiny_config)
    mesh = meshes.create()
    feed = Feed(tiny_config, mesh)
    mine = ahead_of_time._batch(tiny_config, mesh, training=True)
    theirs = next(feed)
    feed.close()
    assert {name: (x.shape, x.dtype) for name, x in mine.items()} == {
        name: (x.shape, x.dtype) for name, x in theirs.items()
    }
    mine = ahead_of_time._batch(tiny_config, mesh, training=False)
    theirs = for_device(next(iter(evaluation_batches(tiny_config, "val", "true"))))
    assert {name: (x.shape, x.dtype) for name, x in mine.items()} == {
        name: (x.shape, x.dtype) for name, x in theirs.items()
    }


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_accelerators_do_not_get_the_loops_that_are_for_a_cpu(platform):
    def both(value, locations, weights):
        sampled = sampling.sample(value, locations, weights, SHAPES)
        return sampled, attention.attend(sampled, value, value)

    shapes = [(2, 20, 2, 4), (2, 5, 2, 2, 4, 2), (2, 5, 2, 2, 4)]
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    text = jax.jit(both).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.gather" in text) == (platform != "tpu") and "stablehlo.while" not in text
    assert "stablehlo.while" in jax.jit(both).lower(*arguments).as_text()


@pytest.mark.parametrize(
    "topology", ["v9:2x2", "v5e:4", "v5e:2x2x2", "v4:2x2", "v5e", "cuda:0", "cuda:x", "h200:0", "b1"]
)
def test_an_unknown_topology_is_one_clear_error(topology):
    with pytest.raises(
        ahead.AheadError, match=f"--topology={topology}: GPUs, as in cuda:8, a100:8, .*, or a TPU and the shape of its"
    ):
        ahead.target(topology)


@pytest.fixture
def asked(monkeypatch):
    """What a compiler that is not installed is asked for; this machine's devices stand in for its own."""
    calls = []

    def stand_in(**described):
        calls.append(described)
        return types.SimpleNamespace(devices=jax.devices())

    monkeypatch.setattr(ahead.topologies, "get_topology_desc", stand_in)
    platforms, cache = jax.config.jax_platforms, jax.config.jax_enable_compilation_cache
    yield calls
    jax.config.update("jax_platforms", platforms)
    jax.config.update("jax_enable_compilation_cache", cache)


def test_a_gpu_is_described_to_its_compiler(asked):
    target = ahead.target("h200:4")
    assert (target.name, target.count, target.platform) == ("h200:4", 4, "cuda")
    assert 140 < target.memory / ahead.GIB < 142 and ahead.target("h200", 80).memory == 80 * ahead.GIB
    described = asked[0]
    assert (described["platform"], described["topology"]) == ("cuda", "1x1x4")
    proto = described["target_config"]
    assert proto.count("{") == proto.count("}")
    for field in ("major: 9 ", "core_count: 132 ", "memory_bandwidth: 4800000000000 ", '"NVIDIA H200"'):
        assert field in proto


def test_the_floor_is_that_of_the_chips_not_here(asked, monkeypatch):
    """Of products and of their bytes, shared by the devices."""
    config = tiny.get_config().unlock()
    monkeypatch.setattr(ahead, "_UNTUNED", {})  # this machine's compiler does not know them
    *_, line = ahead_of_time.report(config, "h100", steps=["predict"])
    mesh = meshes.create()
    program = ahead_of_time._program("predict", config, mesh, ahead_of_time._state(config, mesh))
    counted = cost.of(program.function, *program.arguments, platform="cuda")
    products, moved = counted.flops / 989e9, counted.bytes / 3.352e9
    assert line == (
        f"  floor: {products:.3g} ms for the products at 989 TFLOP/s, {moved:.3g} ms for what they read and write at "
        "3.35 TB/s; computed"
    )
    assert 0 < products < 1 and 0 < moved < 1


def test_what_is_not_installed_is_named(asked, monkeypatch):
    def refuse(**_):
        raise NotImplementedError("topology not implemented for cuda")

    monkeypatch.setattr(ahead.topologies, "get_topology_desc", refuse)
    with pytest.raises(
        ahead.AheadError, match=r"--topology=h100: topology not implemented for cuda .*pip install '\.\[cuda\]'"
    ):
        ahead.target("h100")


def test_memory_can_be_given_for_what_is_not_known():
    assert ahead.target("cuda").memory is None
    assert ahead.target("cuda", 80).memory == 80 * ahead.GIB


def test_operations_are_counted_once_whatever_the_layout(lowered):
    """The report's figure is the program's, not a device's share of it."""
    config, lines = lowered
    mesh = meshes.create()
    state = ahead_of_time._state(config.copy_and_resolve_references(), mesh)
    program = ahead_of_time._program("train", config, mesh, state)
    counted = cost.of(program.function, *program.arguments, platform="cuda").flops
    assert f"{counted / 1e9:,.1f} GFLOP in products, all devices" in next(x for x in lines if x.startswith("train: "))
