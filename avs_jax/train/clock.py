"""How long a run has taken, over all its restarts, and how fast it goes now."""

from __future__ import annotations

import time
from collections.abc import Callable


class Clock:
    """Counts training seconds and clips; its state goes into the checkpoint.

    Args:
      now: the time source, in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic):
        self._now = now
        self._start = now()
        self._before = 0.0  # seconds of earlier processes
        self._mark = (self._start, 0)

    def state(self) -> dict[str, float]:
        """Returns what `restore` takes."""
        return {"seconds": self.seconds()}

    def restore(self, state: dict[str, float]) -> None:
        """Goes on from the seconds of an earlier process."""
        self._before = float(state["seconds"])

    def seconds(self) -> float:
        """Returns the seconds of the whole run so far."""
        return self._before + self._now() - self._start

    def lap(self, clips: int) -> float:
        """Returns clips a second since the last lap; `clips` counts from this process's start."""
        now = self._now()
        (then, before), self._mark = self._mark, (now, clips)
        return (clips - before) / max(now - then, 1e-9)
