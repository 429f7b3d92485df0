"""Compiling for devices that are not here, and what their compiler says of a program.

With libtpu installed (`pip install '.[tpu]'`) XLA compiles for a TPU on a machine that has none, with its CUDA plugin
(`pip install '.[cuda]'`) for a GPU. The result cannot be run, but layouts, memory and operations are those of the real
thing; on a GPU but for what would be tuned by trying it there.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.experimental import topologies
from jax.stages import Compiled, Lowered, Traced

GIB = 2**30
_HLO = re.compile(r"^\s+(?:ROOT )?%?[\w.-]+ = ", re.MULTILINE)
_STABLEHLO = re.compile(r"^\s+%[\w:#]+ = ", re.MULTILINE)
_OUT_OF_MEMORY = re.compile(r"Used ([\d.]+[KMG]) of ([\d.]+[KMG]) hbm")


class AheadError(ValueError):
    """A target that cannot be compiled for, or a program that does not fit it; the message gives the mend."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """Bytes of memory of a device, bytes a second that it reads or writes, bfloat16 FLOP a second of dense products."""

    memory: int
    bandwidth: float
    peak: float

    def floor_seconds(self, flops: float, moved: float) -> tuple[float, float]:
        """The least time that one device takes for its operations, and for the bytes that they read and write."""
        return flops / self.peak, moved / self.bandwidth


@dataclasses.dataclass(frozen=True)
class Tpu(Chip):
    """The number of axes of a slice, and libtpu's name for one device a chip."""

    axes: int
    layout: str


@dataclasses.dataclass(frozen=True)
class Gpu(Chip):
    """What XLA's compiler wants to know: compute capability, multiprocessors and what each of them has, GHz, cache."""

    capability: str
    cores: int
    units: int
    shared: int
    clock: float
    cache: int


# docs.cloud.google.com/tpu/docs/system-architecture-tpu-vm
TPUS = {
    "v4": Tpu(32 * GIB, 1.228e12, 275e12, 3, "megacore"),
    "v5e": Tpu(16 * GIB, 0.819e12, 197e12, 2, "default"),
    "v5p": Tpu(95 * GIB, 2.765e12, 459e12, 3, "megacore"),
    "v6e": Tpu(32 * GIB, 1.638e12, 918e12, 2, "default"),
}
# NVIDIA's data sheets, SXM; XLA's own descriptions of them.
_HOPPER = {
    "capability": "major: 9 feature_extension: ACCELERATED_FEATURES",
    **{"cores": 132, "units": 128, "shared": 233472, "clock": 1.98, "cache": 52428800},
}
GPUS = {
    "a100": Gpu(85100068864, 2.039e12, 312e12, "major: 8", 108, 64, 167936, 1.41, 41943040),
    "h100": Gpu(84942979072, 3.352e12, 989e12, **_HOPPER),
    "h200": Gpu(151397597184, 4.8e12, 989e12, **_HOPPER),
}
# Chips of a host, where it has not 2 x 2 of them.
_HOSTS = {"1x1": (1, 1, 1), "2x4": (2, 4, 1)}
# Without the GPU nothing can be tried on it.
_UNTUNED = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}


@dataclasses.dataclass(frozen=True)
class Target:
    """What is compiled for.

    Attributes:
      name: "v5e:2x4", "h200:8", "cuda:8", or what this machine has.
      count: the number of devices.
      platform: "cpu", "cuda" or "tpu".
      devices: that a mesh can be made of; none where programs are only lowered.
      memory: of one device, in bytes; None where it is not known, and nothing can be said of what fits.
      chip: of what is not here.
      options: of XLA, for all programs.
    """

    name: str
    count: int
    platform: str
    devices: tuple[jax.Device, ...]
    memory: int | None
    chip: Chip | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Compilation:
    """What the compiler says of one program; everything is of one device.

    Attributes:
      seconds: from the lowered program to the executable; next to none where it is found in the cache of programs.
      instructions: of the optimised HLO (of the StableHLO where it is only lowered), all functions.
      flops, bytes: as XLA counts them, the body of a loop once; None where it does not say.
      arguments, results, temporaries: memory in bytes; what is donated counts as an argument only.
    """

    seconds: float
    instructions: int
    flops: float | None
    bytes: float | None
    arguments: int
    results: int
    temporaries: int | None

    @property
    def peak_memory(self) -> int:
        """A lower bound where temporaries are not known."""
        return self.arguments + self.results + (self.temporaries or 0)

    def lines(self) -> Iterator[str]:
        """What a person wants to read."""
        parts = {"arguments": self.arguments, "results": self.results, "temporaries": self.temporaries}
        shown = ", ".join(f"{name} {size / GIB:.3f}" for name, size in parts.items() if size is not None)
        bound = "at least " if self.temporaries is None else ""
        yield f"memory of a device: {bound}{self.peak_memory / GIB:.3f} GiB ({shown})"
        if self.flops is not None:
            yield f"XLA's count for a device: {self.flops / 1e9:.1f} GFLOP, {self.bytes / 1e9:.2f} GB read and written"
        yield f"{self.instructions:,} instructions"


def target(topology: str, memory_gb: float = 0.0) -> Target:
    """Finds what to compile for. Call it before anything else uses JAX: a TPU that is not here must not be looked for.

    Args:
      topology: a TPU's generation and shape ("v5e:2x4", "v5p:2x2x2"); a GPU and how many ("h200", "h200:8"); "cuda" or
        "cuda:8" for any, for which programs are only lowered; or "" for this machine.
      memory_gb: of one device in GiB, in place of what is known of it.

    Raises:
      AheadError: there is no such topology, or its compiler is not installed.
    """
    given = int(memory_gb * GIB) or None
    if not topology:
        devices = tuple(jax.devices())
        held = (devices[0].memory_stats() or {}).get("bytes_limit")
        name, platform = f"{len(devices)} x {devices[0].device_kind}", devices[0].platform
        return Target(name, len(devices), "cuda" if platform == "gpu" else platform, devices, given or held)
    jax.config.update("jax_platforms", "cpu")
    kind, _, shape = topology.partition(":")
    if kind in ("cuda", *GPUS) and re.fullmatch(r"\d*", shape) and shape != "0":
        count = int(shape or 1)
        if kind == "cuda":
            return Target(topology, count, "cuda", (), given)
        chip = GPUS[kind]
        described = {"target_config": _described(kind, chip), "topology": f"1x1x{count}"}
        found = _compiled_for("cuda", topology, described)
        return Target(topology, count, "cuda", found, given or chip.memory, chip, _UNTUNED)
    chip = TPUS.get(kind)
    if chip is None or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)+", shape) or shape.count("x") + 1 != chip.axes:
        known = ", ".join(f"{name}:{'x'.join('2' * each.axes)}" for name, each in TPUS.items())
        gpus = ", ".join(f"{name}:8" for name in ("cuda", *GPUS))
        raise AheadError(
            f"--topology={topology}: GPUs, as in {gpus}, or a TPU and the shape of its slice, as in {known}"
        )
    # Else libtpu asks the cloud what it runs on, and cannot be loaded by two processes at a time.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    hosts = {"chips_per_host_bounds": _HOSTS[shape]} if shape in _HOSTS else {}
    described = {"topology_name": topology, "chip_config_name": chip.layout, "num_slices": 1, **hosts}
    found = _compiled_for("tpu", topology, described)
    return Target(topology, math.prod(map(int, shape.split("x"))), "tpu", found, given or chip.memory, chip)


def _compiled_for(platform: str, topology: str, described: Mapping[str, Any]) -> tuple[jax.Device, ...]:
    """Devices that are not here."""
    jax.config.update("jax_enable_compilation_cache", False)  # such programs can be kept, but not read back
    try:
        found = topologies.get_topology_desc(platform=platform, **described)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        mend = f"its compiler comes with pip install '.[{platform}]'"
        raise AheadError(f"--topology={topology}: {reason} ({mend})") from error
    return tuple(found.devices)


def _described(name: str, gpu: Gpu) -> str:
    """XLA's GpuTargetConfigProto, as text."""
    return f"""
        gpu_device_info {{
          cuda_compute_capability {{ {gpu.capability} }}
          core_count: {gpu.cores} fpus_per_core: {gpu.units} clock_rate_ghz: {gpu.clock}
          device_memory_size: {gpu.memory} memory_bandwidth: {gpu.bandwidth:.0f} l2_cache_size: {gpu.cache}
          shared_memory_per_core: {gpu.shared} shared_memory_per_block_optin: {gpu.shared - 1024}
          shared_memory_per_block: 49152 registers_per_core_limit: 65536 registers_per_block_limit: 65536
          threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
          thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
          block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
        }}
        platform_name: "CUDA" device_description_str: "NVIDIA {name.upper()}"
        dnn_version_info {{ major: 9 minor: 10 }} runtime_version {{ major: 13 }}
    """


def compile_traced(traced: Traced, arguments: Any, where: Target, options: Mapping[str, Any]) -> Compilation:
    """Compiles a function; only lowers it where the target has no devices.

    Args:
      traced: the function.
      arguments: what it was traced with, a tree of `jax.ShapeDtypeStruct` whose layouts are on devices of `where`.
      options: of the compiler, beside the target's.

    Raises:
      AheadError: the compiler itself has found that the program does not fit the device's memory.
    """
    start = time.perf_counter()
    if not where.devices:
        return _lowered_only(traced.lower(lowering_platforms=(where.platform,)), arguments, start)
    lowered = traced.lower()
    try:
        compiled = lowered.compile({**where.options, **options})
    except jax.errors.JaxRuntimeError as error:
        found = _OUT_OF_MEMORY.search(str(error))
        if found is None:
            raise
        raise AheadError(f"it needs {found[1]} of the {found[2]} that a device of {where.name} has") from error
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    return Compilation(
        seconds=time.perf_counter() - start,
        instructions=instructions(compiled),
        flops=cost.get("flops", 0.0) if cost else None,
        bytes=cost.get("bytes accessed", 0.0) if cost else None,
        arguments=memory.argument_size_in_bytes,
        results=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
    )


def instructions(compiled: Compiled) -> int:
    """The number of instructions of the optimised HLO, all computations."""
    return len(_HLO.findall(compiled.as_text()))


def _lowered_only(lowered: Lowered, arguments: Any, start: float) -> Compilation:
    held = (math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(arguments))
    return Compilation(
        seconds=time.perf_counter() - start,
        instructions=len(_STABLEHLO.findall(lowered.as_text())),
        flops=None,
        bytes=None,
        arguments=sum(held),
        results=0,
        temporaries=None,
    )
