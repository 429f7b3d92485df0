"""The same function over many items, in several processes."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool

import numpy as np

# Each process is one of many: numerical libraries that start a thread a core in each would only get in their way.
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class WorkerError(RuntimeError):
    """A process was killed from outside."""


def cores(processes: int | None = None) -> int:
    """`processes`, or as many as this process may use."""
    if processes:
        return processes
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS has none


def run(
    function: Callable, items: Sequence, processes: int | None = None, chunk: int = 1
) -> Iterator[tuple[int, object]]:
    """Yields (index, function(items[index])) in order of completion.

    Args:
      function: picklable; its exceptions are raised here, after the items in work have ended.
      items: picklable.
      processes: at most so many, as many as there are cores if None; a single one means this process.
      chunk: items sent to a process at a time.

    Raises:
      WorkerError: a process died.
    """
    chunks = [range(i, min(i + chunk, len(items))) for i in range(0, len(items), chunk)]
    count = min(cores(processes), len(chunks))
    if count < 2:
        for index, item in enumerate(items):
            yield index, function(item)
        return
    context = multiprocessing.get_context("spawn")  # a forked child would inherit JAX's and Grain's locks, not threads
    executor = concurrent.futures.ProcessPoolExecutor(count, mp_context=context, initializer=_end_with_parent)
    try:
        with _environment(_ONE_THREAD):  # the processes start with the first task
            futures = {executor.submit(_each, function, [items[i] for i in indices]): indices for indices in chunks}
        for future in concurrent.futures.as_completed(futures):
            yield from zip(futures[future], future.result(), strict=True)
    except BrokenProcessPool as error:
        raise WorkerError(
            "a worker process was killed from outside (out of memory?): use fewer processes; "
            "the same command goes on where this one stopped"
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


def take(iterator: Iterator[dict[str, np.ndarray]], first: bool) -> dict[str, np.ndarray]:
    """`next(iterator)` of an iterator of Grain's, which may have processes of its own.

    Those that the `first` call starts are not ended by signals that a terminal or a scheduler sends to all processes of
    a job: this process is asked to stop, and ends them when it does. What lies in memory shared with them is copied:
    it is freed at once, however long the batch is kept.

    Raises:
      WorkerError: a process died.
    """
    try:
        with _signals_held_back() if first else contextlib.nullcontext():
            batch = next(iterator)
    except RuntimeError as error:
        if "Worker process was terminated" not in str(error):
            raise
        raise WorkerError(
            "a process that reads data was killed from outside (out of memory?): set data.workers lower; the same "
            "command goes on from the newest checkpoint"
        ) from error
    return {name: array if type(array) is np.ndarray else np.array(array) for name, array in batch.items()}


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """Threads and processes that start meanwhile never get SIGINT and SIGTERM; this thread gets them afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Sets environment variables for the processes that start meanwhile; those that the user has set stay."""
    new = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            del os.environ[name]


def _each(function: Callable, items: Sequence) -> list:
    return [function(item) for item in items]


def _end_with_parent() -> None:
    """Lets a worker end when the process that started it is killed; it would wait for work for ever."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
