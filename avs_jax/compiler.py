"""What a large program's compilation is helped with."""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import gc
from collections.abc import Callable, Iterator
from typing import Any

import jax

_platform: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)


def training_options(platform: str) -> dict[str, str]:
    """Options of XLA for a training step on a platform, as devices name theirs."""
    if platform != "cpu":
        return {}
    # Else whatever can be first is first: the zeros into which every loop writes, so all of them are held at once.
    return {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


@contextlib.contextmanager
def tracing(platform: str | None = None) -> Iterator[None]:
    """Makes tracing of large programs faster.

    Traces are made of millions of objects that stay: Python would look through all of them for garbage, again and
    again, for a quarter of the time.

    Args:
      platform: what the traced programs are for, where it is known, as devices name theirs: see `by_platform`.
    """
    enabled, known = gc.isenabled(), _platform.set(platform if platform in ("cpu", "tpu") else None)
    gc.disable()
    try:
        yield
    finally:
        _platform.reset(known)
        if enabled:
            gc.enable()


def release_memory() -> None:
    """Returns what compilation has freed to the system, where the C library can: glibc else keeps more than a GB."""
    with contextlib.suppress(OSError, TypeError, AttributeError):  # no such library, or one without the function
        ctypes.CDLL(None).malloc_trim(0)


def by_platform(*arguments: Any, default: Callable, **forms: Callable) -> Any:
    """`jax.lax.platform_dependent`, which traces no other form where `tracing` knows the platform."""
    platform = _platform.get()
    if platform is None:
        return jax.lax.platform_dependent(*arguments, default=default, **forms)
    return forms.get(platform, default)(*arguments)
