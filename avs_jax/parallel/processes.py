"""Several processes that work as one: how they find each other, and what happens when one of them dies."""

from __future__ import annotations

import ctypes
import itertools
import logging
import os
import signal
import sys
from collections.abc import Callable

import jax
from jax._src import distributed  # whose barriers have no public name

log = logging.getLogger(__name__)

# A process that is not heard of for so long is dead, and the others end. JAX's own default is 100.
HEARTBEAT_SECONDS = 30
MEETING_SECONDS = 24 * 3600
SHUTDOWN_SECONDS = 60  # how long a process that has finished waits for the others

# Ends a process that was left alone by another one. It is the number of SIGABRT, see `_abort_with_a_code`.
EXIT_LOST = int(signal.SIGABRT)


_meetings = itertools.count()  # every process counts the same


class ProcessError(ValueError):
    """Processes that cannot become one job; the message gives the mend."""


def initialize(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Joins this process to the others of its job; call it before anything else of JAX.

    Without arguments JAX looks for a cluster that it knows: Cloud TPU, SLURM, Open MPI, Kubernetes. Where there is
    none, this process stays alone.

    Args:
      coordinator: HOST:PORT of process 0, which listens there.
      num_processes: of the job.
      process_id: of this process, from 0.

    Raises:
      ProcessError: some of the arguments are given and others are not, or they contradict each other.
    """
    given = (coordinator, num_processes, process_id)
    times = {"heartbeat_timeout_seconds": HEARTBEAT_SECONDS, "shutdown_timeout_seconds": SHUTDOWN_SECONDS}
    if all(value is None for value in given):
        if not _found_a_cluster(times):
            return
    else:
        _check(*given)
        jax.distributed.initialize(*given, cluster_detection_method="deactivate", **times)
    _abort_with_a_code()
    log.info(
        "process %d of %d, with %d of %d devices; if another one dies, this one ends with code %d within a minute",
        jax.process_index(), jax.process_count(), jax.local_device_count(), jax.device_count(), EXIT_LOST,
    )  # fmt: skip


def first_alone(work: Callable[[], None]) -> None:
    """Does `work` in process 0 and then in the others, which find it done where they share a disk."""
    if jax.process_index() == 0:
        work()
    meet()
    if jax.process_index() != 0:
        work()


def meet() -> None:
    """Waits until all processes are here, however long that takes; one that dies ends the wait as it ends the job.

    A collective operation would do, but that of CPUs (Gloo) gives up after 30 s.
    """
    client = distributed.global_state.client
    if client is not None:
        client.wait_at_barrier(f"avs_jax_{next(_meetings)}", MEETING_SECONDS * 1000)


def exit_code(error: Exception) -> int:
    """What to exit with after an error of one process of several: EXIT_LOST where it most likely lost another one."""
    if not isinstance(error, jax.errors.JaxRuntimeError):
        return 1
    print("error: this process cannot go on; most likely another one died, and its message says why", file=sys.stderr)
    return EXIT_LOST


def leave(code: int) -> int:
    """Returns an exit code; but ends a process of several with it here and now.

    At an orderly end it would wait for the others, and they for it.
    """
    if not jax.distributed.is_initialized():
        return code
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _check(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    if None in (coordinator, num_processes, process_id):
        raise ProcessError("--coordinator, --num_processes and --process_id: give all three, or none of them")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise ProcessError(f"--coordinator={coordinator}: HOST:PORT of process 0")
    if not 0 <= process_id < num_processes:
        raise ProcessError(f"--process_id={process_id}: from 0 to {num_processes - 1} with {num_processes} processes")


def _found_a_cluster(times: dict[str, int]) -> bool:
    """Joins the processes that JAX finds by itself; False where it finds none, or a SLURM job of one."""
    if os.environ.get("SLURM_NTASKS") == "1":
        return False
    try:
        jax.distributed.initialize(**times)
    except ValueError as error:
        if "coordinator_address" not in str(error):  # that is what no cluster has told it
            raise
        return False
    return True


def _abort_with_a_code() -> None:
    """Has the C library end this process with EXIT_LOST where JAX aborts it, as it does when another process is dead.

    An abort would leave a core file of all memory, and an exit status that shells and schedulers report in their own
    ways. A handler is called with the number of its signal, so `_exit` as the handler ends with that number.
    """
    library = ctypes.CDLL(None)
    library.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    library.signal.restype = ctypes.c_void_p
    library.signal(int(signal.SIGABRT), ctypes.cast(library._exit, ctypes.c_void_p))
