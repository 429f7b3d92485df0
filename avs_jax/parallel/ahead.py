"""Compiling for devices that are not here, and what their compiler says of a program.

With libtpu installed (`pip install '.[tpu]'`) XLA compiles for a TPU on a machine that has none. The result cannot be
run, but layouts, memory and operations are those of the real thing.
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
from jax.stages import Lowered, Traced

GIB = 2**30
_HLO = re.compile(r"^\s+(?:ROOT )?%?[\w.-]+ = ", re.MULTILINE)
_STABLEHLO = re.compile(r"^\s+%[\w:#]+ = ", re.MULTILINE)
_OUT_OF_MEMORY = re.compile(r"Used ([\d.]+[KMG]) of ([\d.]+[KMG]) hbm")


class AheadError(ValueError):
    """A target that cannot be compiled for, or a program that does not fit it; the message gives the mend."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """A TPU chip: its memory in GiB, the number of axes of a slice, and libtpu's name for one device a chip."""

    memory_gib: int
    axes: int
    layout: str


# docs.cloud.google.com/tpu/docs/system-architecture-tpu-vm
CHIPS = {
    "v4": Chip(32, 3, "megacore"),
    "v5e": Chip(16, 2, "default"),
    "v5p": Chip(95, 3, "megacore"),
    "v6e": Chip(32, 2, "default"),
}
# Chips of a host, where it has not 2 x 2 of them.
_HOSTS = {"1x1": (1, 1, 1), "2x4": (2, 4, 1)}


@dataclasses.dataclass(frozen=True)
class Target:
    """What is compiled for.

    Attributes:
      name: "v5e:2x4", "cuda:8", or what this machine has.
      count: the number of devices.
      devices: that a mesh can be made of; none where programs are only lowered.
      memory: of one device, in bytes; None where it is not known, and nothing can be said of what fits.
    """

    name: str
    count: int
    devices: tuple[jax.Device, ...]
    memory: int | None


@dataclasses.dataclass(frozen=True)
class Compilation:
    """What the compiler says of one program; everything is of one device.

    Attributes:
      seconds: from the lowered program to the executable; next to none where it is found in the cache of programs.
      instructions: of the optimised HLO (of the StableHLO where it is only lowered), all functions.
      flops, bytes: as XLA counts them, the body of a loop once; None where it is only lowered.
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
      topology: a TPU's generation and shape ("v5e:2x4", "v5p:2x2x2"); "cuda" or "cuda:8"; or "" for this machine.
      memory_gb: of one device in GiB, in place of what is known of it.

    Raises:
      AheadError: there is no such topology, or libtpu is not installed.
    """
    given = int(memory_gb * GIB) or None
    if not topology:
        devices = tuple(jax.devices())
        held = (devices[0].memory_stats() or {}).get("bytes_limit")
        return Target(f"{len(devices)} x {devices[0].device_kind}", len(devices), devices, given or held)
    jax.config.update("jax_platforms", "cpu")
    kind, _, shape = topology.partition(":")
    if kind == "cuda" and re.fullmatch(r"\d*", shape) and shape != "0":
        return Target(topology, int(shape or 1), (), given)
    chip = CHIPS.get(kind)
    if chip is None or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)+", shape) or shape.count("x") + 1 != chip.axes:
        known = ", ".join(f"{name}:{'x'.join('2' * each.axes)}" for name, each in CHIPS.items())
        raise AheadError(f"--topology={topology}: cuda, cuda:8, or a TPU and the shape of its slice, as in {known}")
    found = _tpu(topology, shape, chip)
    return Target(topology, math.prod(map(int, shape.split("x"))), found, given or chip.memory_gib * GIB)


def _tpu(topology: str, shape: str, chip: Chip) -> tuple[jax.Device, ...]:
    # Else libtpu asks the cloud what it runs on, and cannot be loaded by two processes at a time.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    jax.config.update("jax_enable_compilation_cache", False)  # such programs can be kept, but not read back
    hosts = {"chips_per_host_bounds": _HOSTS[shape]} if shape in _HOSTS else {}
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=topology, chip_config_name=chip.layout, num_slices=1, **hosts
        )
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise AheadError(f"--topology={topology}: {reason} (libtpu comes with pip install '.[tpu]')") from error
    return tuple(found.devices)


def compile_traced(traced: Traced, arguments: Any, where: Target, options: Mapping[str, str]) -> Compilation:
    """Compiles a function, for `cuda` only lowers it.

    Args:
      traced: the function.
      arguments: what it was traced with, a tree of `jax.ShapeDtypeStruct` whose layouts are on devices of `where`.
      options: of the compiler.

    Raises:
      AheadError: the compiler itself has found that the program does not fit the device's memory.
    """
    start = time.perf_counter()
    if not where.devices:
        return _lowered_only(traced.lower(lowering_platforms=("cuda",)), arguments, start)
    lowered = traced.lower()
    try:
        compiled = lowered.compile(dict(options))
    except jax.errors.JaxRuntimeError as error:
        found = _OUT_OF_MEMORY.search(str(error))
        if found is None:
            raise
        raise AheadError(f"it needs {found[1]} of the {found[2]} that a device of {where.name} has") from error
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    return Compilation(
        seconds=time.perf_counter() - start,
        instructions=len(_HLO.findall(compiled.as_text())),
        flops=cost.get("flops", 0.0),
        bytes=cost.get("bytes accessed", 0.0),
        arguments=memory.argument_size_in_bytes,
        results=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
    )


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
