"""What happens beside the training step: progress, logging, stopping. Each is a small object that the loop calls."""

from __future__ import annotations

import logging
import math
import signal
import sys
from collections.abc import Callable, Mapping

import jax
from tqdm import tqdm

from avs_jax.train.clock import Clock
from avs_jax.train.writers import Writer

log = logging.getLogger(__name__)


class Preemption:
    """Notices SIGTERM (a preempted machine, a scheduler's time limit) without interrupting the step under way."""

    def __init__(self):
        self.requested = False
        self._before = None

    def __enter__(self) -> Preemption:
        self._before = signal.signal(signal.SIGTERM, self._notice)
        return self

    def __exit__(self, *_) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _notice(self, *_) -> None:
        self.requested = True


class Progress:
    """A progress bar with loss, clips a second and the time left; silent where the output is no terminal.

    Metrics stay on the devices until they are written, every `every` steps, so that the loop never waits for a step.

    Args:
      writers: takes scalars by step; see `writers.create_writers`.
      clock: counts over restarts.
      start, total: the run's first and last step.
      clips: how many clips a step takes.
      rate: maps steps to learning rates.
    """

    def __init__(
        self,
        writers: Writer,
        clock: Clock,
        start: int,
        total: int,
        every: int,
        clips: int,
        rate: Callable[[int], float],
    ):
        self._writers, self._clock, self._every, self._clips, self._rate = writers, clock, every, clips, rate
        self._start, self._total = start, total
        self._bar = tqdm(total=total, initial=start, unit="step", disable=not sys.stderr.isatty(), dynamic_ncols=True)

    def __call__(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Takes the metrics of the step that ended as `step`.

        Raises:
          FloatingPointError: the loss is not finite.
        """
        self._bar.update()
        if step % self._every and step != self._total:
            return
        scalars = {f"train/{name}": float(value) for name, value in jax.device_get(dict(metrics)).items()}
        speed = self._clock.lap((step - self._start) * self._clips)
        scalars |= {"train/learning_rate": float(self._rate(step - 1)), "train/clips_per_second": speed}
        scalars["train/seconds"] = self._clock.seconds()
        self._writers.scalars(step, scalars)
        loss = scalars["train/loss"]
        self._bar.set_postfix(loss=f"{loss:.4f}", clips_s=f"{speed:.1f}")
        if self._bar.disable:
            left = (self._total - step) * self._clips / max(speed, 1e-9)
            log.info("step %d/%d  loss %.4f  %.1f clips/s  %.0f s left", step, self._total, loss, speed, left)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} at step {step}: the last checkpoint is kept; lower the rate")

    def close(self) -> None:
        """Ends the bar's line."""
        self._bar.close()
