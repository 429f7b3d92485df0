"""Compiling for devices that are not here, and what their compiler says of a program.

With libtpu installed (`pip install .[tpu]`) XLA compiles for a TPU on a machine that has none; the result cannot be run,
but shapes, layouts, memory and operations are those of the real thing.
"""

from __future__ import annotations

import dataclasses
import os
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.experimental import topologies

GIB = 2**30
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.-]+ = ", re.MULTILINE)
_OUT_OF_MEMORY = re.compile(r"Used ([\d.]+)([GM]) of ([\d.]+)([GM]) hbm")


class AheadError(ValueError):
    """A target that cannot be compiled for, or a program that does not fit it; the message gives the mend."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a TPU chip has: memory in GiB, the peak of bfloat16 products in TFLOP/s, and its compiler's name for it."""

    memory_gib: int
    peak_tflops: int
    layout: str = "default"  # of a chip's cores: one device a chip in every generation


# cloud.google.com/tpu/docs/system-architecture
CHIPS = {
    "v4": Chip(32, 275, "megacore"),
    "v5e": Chip(16, 197),
    "v5p": Chip(95, 459, "megacore"),
    "v6e": Chip(32, 918),
}


@dataclasses.dataclass(frozen=True)
class Target:
    """What is compiled for.

    Attributes:
      name: "v5e:2x4", "cuda", or what this machine has.
      devices: that a mesh can be made of; of `cuda` there are none.
      memory: of one device, in bytes; None where it is not known, and nothing can be said of what fits.
      peak: of one device, products in bfloat16, in FLOP/s; None where it is not known.
    """

    name: str
    devices: tuple[jax.Device, ...]
    memory: int | None
    peak: float | None = None


@dataclasses.dataclass(frozen=True)
class Compilation:
    """What the compiler says of one program; bytes and operations are those of one device.

    Attributes:
      seconds: from the traced program to the executable, with the cache of compiled programs switched off.
      instructions: of the optimised HLO, all computations.
      flops, bytes: as XLA counts them, the body of a loop once.
      arguments, results, temporaries: memory in bytes; what is donated counts as an argument only.
    """

    seconds: float
    instructions: int
    flops: float
    bytes: float
    arguments: int
    results: int
    temporaries: int

    @property
    def peak_memory(self) -> int:
        return self.arguments + self.results + self.temporaries


def target(topology: str, memory_gb: float = 0.0) -> Target:
    """Finds what to compile for.

    Args:
      topology: a TPU's generation and shape ("v5e:2x4", "v5p:2x2x2"), "cuda", or "" for the devices of this machine.
      memory_gb: of one device in GiB, in place of what is known of it.

    Raises:
      AheadError: there is no such topology, or libtpu is not installed.
    """
    given = int(memory_gb * GIB) or None
    if not topology:
        devices = tuple(jax.devices())
        held = (devices[0].memory_stats() or {}).get("bytes_limit")
        return Target(f"{len(devices)} x {devices[0].device_kind}", devices, given or held)
    if topology == "cuda":
        return Target("cuda", (), given)
    generation, _, shape = topology.partition(":")
    if generation not in CHIPS or not re.fullmatch(r"\d+x\d+(x\d+)?", shape):
        raise AheadError(f"--topology={topology}: cuda, or a TPU's {', '.join(CHIPS)} and its shape, as in v5e:2x4")
    chip = CHIPS[generation]
    # Without these two libtpu asks the cloud what it runs on, and refuses to be loaded by two processes.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=topology, chip_config_name=chip.layout, num_slices=1
        )
    except Exception as error:  # the plugin's own, of any type, and what is raised where there is no plugin
        raise AheadError(f"--topology={topology}: {error}; libtpu comes with pip install '.[tpu]'") from error
    return Target(topology, tuple(found.devices), given or chip.memory_gib * GIB, chip.peak_tflops * 1e12)


def compile_ahead(function: Callable, arguments: Sequence[Any], donate: bool = False) -> Compilation:
    """Compiles a function for the devices that its arguments lie on.

    Args:
      function: of arrays.
      arguments: trees of `jax.ShapeDtypeStruct` with shardings.
      donate: whether the first argument's memory may be used for the results.

    Raises:
      AheadError: the compiler itself has found that the program does not fit the device's memory.
    """
    lowered = jax.jit(function, donate_argnums=(0,) if donate else ()).lower(*arguments)
    start = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        found = _OUT_OF_MEMORY.search(str(error))
        if found is None:
            raise
        raise AheadError(f"the program needs {found[1]} {found[2]}iB of the {found[3]} {found[4]}iB of a device") from error
    seconds = time.perf_counter() - start
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    return Compilation(
        seconds=seconds,
        instructions=len(_INSTRUCTION.findall(compiled.as_text())),
        flops=cost.get("flops", 0.0),
        bytes=cost.get("bytes accessed", 0.0),
        arguments=memory.argument_size_in_bytes,
        results=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
    )
