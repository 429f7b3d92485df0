"""`--mode compile`: what the steps of a configuration would take on devices that need not be here.

    python -m avs_jax.main --config configs/s4.py:224 --mode compile --topology v5e:2x4 --config.train.batch_size=16

No data are needed. The steps are those that training, evaluation and prediction run, with the same layouts; their
inputs are shapes alone.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh

from avs_jax import compiler, models, parallel
from avs_jax import config as configuration
from avs_jax.benchmark import cost
from avs_jax.parallel import ahead
from avs_jax.parallel import mesh as meshes
from avs_jax.train import evaluate, feed, optimizer
from avs_jax.train import state as states
from avs_jax.train.step import make_train_step
from data_pipeline import batch as batches

STEPS = ("train", "eval", "predict")
MEND = "lower the batch size, raise train.accumulate or mesh.fsdp, or take more devices"


@dataclasses.dataclass(frozen=True)
class Program:
    """A step, the shapes and layouts of what it takes, and what becomes of the first of them."""

    function: Callable
    arguments: tuple
    donate: bool = False
    results: Any = None  # layouts, where they are given


def report(config, topology: str = "", memory_gb: float = 0.0, steps: Sequence[str] = ()) -> Iterator[str]:
    """Compiles the steps of a configuration one after the other; yields what there is to say as it is known.

    Args:
      topology, memory_gb: see `ahead.target`.
      steps: some of STEPS; all where there are none.

    Raises:
      AheadError: a step does not fit the memory of a device, or the target is not known.
      MeshError: `config.mesh` or the batches do not fit the number of devices.
    """
    target = ahead.target(topology, memory_gb)
    mesh = _mesh(config, target)
    state = _state(config, mesh)
    yield f"{target.name}, {' x '.join(f'{axis} {size}' for axis, size in mesh.shape.items())}"
    yield ""
    yield from parallel.table(state, mesh)
    if not target.devices:
        yield ""
        yield (
            f"Lowered for CUDA, not compiled: that needs a GPU by name (--topology={', '.join(ahead.GPUS)}; without "
            "--topology, the one that is here). So temporaries are not known, and memory is a lower bound."
        )
    for name in steps or STEPS:
        yield ""
        yield from _step_report(name, _program(name, config, mesh, state), target, mesh)


def _step_report(name: str, program: Program, target: ahead.Target, mesh: Mesh | AbstractMesh) -> Iterator[str]:
    """Lines on one step.

    Raises:
      AheadError: it does not fit.
    """
    start = time.perf_counter()
    with jax.set_mesh(mesh) if isinstance(mesh, Mesh) else jax.sharding.use_abstract_mesh(mesh):
        jitted = jax.jit(program.function, donate_argnums=(0,) if program.donate else (), out_shardings=program.results)
        with compiler.tracing(target.platform):
            traced = jitted.trace(*program.arguments)
        counted = cost.of_jaxpr(traced.jaxpr.jaxpr, target.platform)
        clips, frames = program.arguments[-1]["frames"].shape[:2]
        yield f"{name}: a batch of {clips} x {frames} frames, {counted.flops / 1e9:,.1f} GFLOP in products, all devices"
        options = compiler.training_options(target.platform) if program.donate else {}
        found = ahead.compile_traced(traced, program.arguments, target, options)
    yield f"  traced and compiled in {time.perf_counter() - start:.1f} s, of which the compiler {found.seconds:.1f} s"
    yield from (f"  {line}" for line in found.lines())
    if target.chip:
        products, moved = target.chip.floor_seconds(counted.flops / target.count, counted.bytes / target.count)
        yield (
            f"  floor: {products * 1e3:.3g} ms for the products at {target.chip.peak / 1e12:.0f} TFLOP/s, "
            f"{moved * 1e3:.3g} ms for what they read and write at {target.chip.bandwidth / 1e12:.3g} TB/s; computed"
        )
    if target.memory and found.peak_memory > target.memory:
        raise ahead.AheadError(
            f"{name} does not fit {target.name}: {found.peak_memory / ahead.GIB:.3g} GiB on a device that has "
            f"{target.memory / ahead.GIB:.3g} GiB; {MEND}"
        )


def _mesh(config, target: ahead.Target) -> Mesh | AbstractMesh:
    if target.devices:
        return meshes.create(config.mesh, target.devices)
    shape = meshes.shape_of(config.mesh, target.count)
    return AbstractMesh(shape, meshes.AXES, axis_types=(AxisType.Auto,) * len(meshes.AXES))


def _state(config, mesh: Mesh | AbstractMesh) -> states.TrainState:
    """The shapes and layouts of the state once all parts of the model are trained, when it takes the most memory."""
    model, steps = models.create(config.model), config.train.steps or 1000  # of the schedule; no shape depends on it
    tx = optimizer.create(config.optimizer, steps, {}, optimizer.never_trained(config.model))
    init = states.init_fn(model, tx, feed.example_batch(config), config.seed, config.train.ema_decay > 0)
    return states.abstract(init, mesh)


def _program(name: str, config, mesh: Mesh | AbstractMesh, state: states.TrainState) -> Program:
    model = models.create(config.model)
    batch = _batch(config, mesh, training=name == "train")
    if name == "train":
        never = optimizer.never_trained(config.model)
        tx = optimizer.create(config.optimizer, config.train.steps or 1000, {}, never)
        layouts = jax.tree.map(lambda x: x.sharding, state)
        return Program(make_train_step(model, tx, config, never), (state, batch), donate=True, results=(layouts, None))
    predict = evaluate.predict_fn(model, config.eval.size)
    function = evaluate.counting_step(predict) if name == "eval" else predict
    return Program(function, (state.variables(), batch))


def _batch(config, mesh: Mesh | AbstractMesh, training: bool) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes and layout of the largest batch that the loader delivers."""
    parts = meshes.clips_over(mesh)
    made = feed.options(config, training=training, parts=parts)
    clips, frames = made.batch_size, made.frames
    if training:
        for split in (clips, configuration.part_size(config)):
            meshes.check_split(split, mesh)
    if made.packed:
        clips, frames = clips * frames, 1
    example = batches.example_batch(1, frames, made.image_size, pre_masks=made.pre_masks)
    if made.audio_embedding:
        del example["log_mel"]
    extra = {"audio_embedding": made.audio_embedding, "frame_index": made.packed}
    for key in (key for key, wanted in extra.items() if wanted):
        field = batches.FIELDS[key]
        shape = tuple({"B": 1, "T": frames}.get(axis, axis) for axis in field.axes)
        example[key] = jax.ShapeDtypeStruct(shape, field.dtype)
    layout = meshes.split(mesh)
    return {
        key: jax.ShapeDtypeStruct((clips, *value.shape[1:]), value.dtype, sharding=layout)
        for key, value in feed.for_device(example).items()
    }
