"""Compiling a program, and what the compiler says of it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import jax
from jax.stages import Compiled

from avs_jax import compiler
from avs_jax.benchmark.programs import Program
from avs_jax.parallel import ahead


@dataclasses.dataclass(frozen=True)
class Compilation:
    """Seconds from Python to an executable without and with a cache of compiled programs, and the program's size."""

    cold_seconds: float
    warm_seconds: float
    instructions: int  # see `ahead.instructions`
    temporary_bytes: int
    peak_bytes: int  # see `peak_bytes`


def compile_once(program: Program) -> Compiled:
    """Traces, lowers and compiles a program as it is run in earnest; a step may overwrite its first argument."""
    # A new function object: jit would otherwise find the trace of the last time.
    function = jax.jit(lambda *arguments: program.function(*arguments), donate_argnums=(0,) if program.is_step else ())
    with compiler.tracing(jax.default_backend()):
        lowered = function.lower(*program.arguments)
    return lowered.compile(compiler.training_options(jax.default_backend()) if program.is_step else {})


def compile_twice(program: Program) -> tuple[Compiled, Compilation]:
    """Compiles cold, then again out of the persistent cache, where one is set (`jax_compilation_cache_dir`)."""
    compiled, cold = _timed(program)
    jax.clear_caches()
    _, warm = _timed(program)
    return compiled, Compilation(
        cold_seconds=cold,
        warm_seconds=warm,
        instructions=ahead.instructions(compiled),
        temporary_bytes=compiled.memory_analysis().temp_size_in_bytes,
        peak_bytes=peak_bytes(compiled),
    )


def peak_bytes(compiled: Compiled) -> int:
    """Temporaries, arguments and results, what is donated counted once."""
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.temp_size_in_bytes + held


def runner(compiled: Compiled, program: Program) -> Callable[[], None]:
    """A callable that runs the program once and waits for its results; a step goes on from the one before."""
    arguments = list(program.arguments)

    def run() -> None:
        results = jax.block_until_ready(compiled(*arguments))
        if program.is_step:
            arguments[0] = results[0]

    return run


def _timed(program: Program) -> tuple[Compiled, float]:
    start = time.perf_counter()
    return compile_once(program), time.perf_counter() - start
