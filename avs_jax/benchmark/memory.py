"""Memory as a process holds it: each program in a process of its own, so that nothing else is counted."""

from __future__ import annotations

import multiprocessing
import os
import pathlib

from avs_jax import compiler

RUNS = 2  # the second one finds the allocator as every later one does


def peak(config, component: str, mode: str, peer=None) -> int:
    """The peak in bytes while a program runs, with its weights and state, without the libraries.

    On an accelerator it is the device's memory, else the process's resident memory (Linux).

    Args:
      peer: `peer_programs.Options` for the PyTorch peer, None for the program itself.
    """
    arguments = (config, component, mode)
    if peer:
        arguments += (peer, len(os.sched_getaffinity(0)))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_of_peer if peer else _peak, arguments)


def _peak(config, component: str, mode: str) -> int:
    import jax

    from avs_jax.benchmark import compilation, programs

    device = jax.devices()[0]
    before = _resident("VmRSS")
    program = programs.create(config, component, mode)
    run = compilation.runner(compilation.compile_once(program), program)
    del program
    run()
    _forget_peak()
    for _ in range(RUNS):
        run()
    return device.memory_stats()["peak_bytes_in_use"] if device.memory_stats() else _resident("VmHWM") - before


def _peak_of_peer(config, component: str, mode: str, options, threads: int) -> int:
    import torch

    from avs_jax.benchmark import peer_programs

    torch.set_num_threads(threads)
    before = _resident("VmRSS")
    peer = peer_programs.create(config, component, mode, options)
    peer.run()
    _forget_peak()
    for _ in range(RUNS):
        peer.run()
    return torch.cuda.max_memory_allocated() if options.device == "cuda" else _resident("VmHWM") - before


def _resident(field: str) -> int:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def _forget_peak() -> None:
    """Starts VmHWM anew, without what has been freed."""
    compiler.release_memory()
    pathlib.Path("/proc/self/clear_refs").write_text("5")
