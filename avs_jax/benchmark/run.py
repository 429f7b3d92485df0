"""Measures programs, alone or against their PyTorch peers, as plain dictionaries for JSON."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import os
import platform
from collections.abc import Callable
from typing import Any

import jax

from avs_jax.benchmark import ceiling as ceilings
from avs_jax.benchmark import compilation, cost, memory, programs, timing
from avs_jax.benchmark.sizes import Sizes


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure and how long.

    `against` is "torch" or empty; `peer_dtype` and `peer_compile` say how PyTorch runs. A round of a side takes about
    `seconds`. `resident` measures memory as processes hold it, each program in one of its own.
    """

    components: tuple[str, ...] = ("model",)
    modes: tuple[str, ...] = ("forward",)
    rounds: int = 3
    seconds: float = 1.0
    against: str = ""
    peer_dtype: str = "float32"
    peer_compile: bool = False
    resident: bool = False


def machine() -> dict[str, Any]:
    """Where and with what a measurement was made."""
    found = {"jax", "jaxlib", "flax", "torch", "timm", "transformers"}
    versions = {d.name: d.version for d in importlib.metadata.distributions() if d.name in found}
    return {
        "date": datetime.date.today().isoformat(),
        "device": jax.devices()[0].device_kind,
        "processor": platform.processor() or platform.machine(),
        "threads": len(os.sched_getaffinity(0)),
        "malloc": os.environ.get("GLIBC_TUNABLES", ""),
        "versions": dict(sorted(versions.items())),
    }


def measure_all(config, options: Options, tell: Callable[[dict], None] = lambda found: None) -> dict[str, Any]:
    """Measures every component in every mode that it has; `tell` is called with each result as it comes.

    Returns:
      {"machine": ..., "model": ..., "ceiling": ..., "results": [...]}; a result is that of `measure`.
    """
    best = ceilings.measure(config.model.dtype)
    results = []
    for component in options.components:
        for mode in options.modes:
            if programs.has(config, component, mode):
                results.append(measure(config, component, mode, options, best))
                tell(results[-1])
    model = {"name": config.model.name, "backbone": config.model.backbone.name, "dtype": config.model.dtype}
    image = list(config.data.image_size)
    return {
        "machine": machine(),
        "model": {**model, "image_size": image},
        "ceiling": dataclasses.asdict(best),
        "results": results,
    }


def measure(config, component: str, mode: str, options: Options, best: ceilings.Ceiling) -> dict[str, Any]:
    """Times one program; seconds are of one run, `frames` are those that the run computes."""
    program = programs.create(config, component, mode)
    sizes = Sizes.of(config, training=mode == "train")
    work = cost.of(program.function, *program.arguments)
    compiled, facts = compilation.compile_twice(program)
    sides = {"jax": compilation.runner(compiled, program)}
    peer = _peer(config, component, mode, options) if options.against else None
    if peer:
        sides["torch"] = peer.run
    rounds = timing.alternate(sides, options.rounds, options.seconds)

    ours = timing.median(rounds["jax"])
    found = {
        "component": component,
        "mode": mode,
        "clips": sizes.clips,
        "frames": sizes.num_frames,
        "seconds": ours._asdict(),
        "ms_per_frame": 1e3 * ours.wall / sizes.num_frames,
        "frames_per_second": sizes.num_frames / ours.wall,
        "gflop_per_frame": work.flops / sizes.num_frames / 1e9,
        "mfu": work.flops / ours.wall / best.flops_per_second,
        "floor_ms_per_frame": {
            "flops": 1e3 * work.flops / best.flops_per_second / sizes.num_frames,
            "bytes": 1e3 * work.bytes / best.bytes_per_second / sizes.num_frames,
        },
        "compilation": dataclasses.asdict(facts),
    }
    if peer:
        theirs = timing.median(rounds["torch"])
        found["torch"] = {"seconds": theirs._asdict(), "gflop_per_clip": peer.flops() / sizes.clips / 1e9}
        found["ratio"] = {name: r._asdict() for name, r in timing.ratios(rounds["jax"], rounds["torch"]).items()}
    if options.resident:
        found["resident_bytes"] = _resident(config, component, mode, options)
    return found


def _peer(config, component: str, mode: str, options: Options):
    from avs_jax.benchmark import peer_programs  # needs PyTorch, which only --against asks for

    return peer_programs.create(config, component, mode, peer_options(options))


def peer_options(options: Options):
    """How PyTorch runs: on the same kind of device as JAX."""
    from avs_jax.benchmark import peer_programs

    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    return peer_programs.Options(options.peer_dtype, options.peer_compile, device)


def _resident(config, component: str, mode: str, options: Options) -> dict[str, int]:
    found = {"jax": memory.peak(config, component, mode)}
    if options.against:
        found["torch"] = memory.peak(config, component, mode, peer_options(options))
    return found
