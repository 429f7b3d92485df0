"""What happens beside the training step: progress, logging, stopping. Each is a small object that the loop calls."""

from __future__ import annotations

import collections
import logging
import math
import signal
import sys
from collections.abc import Callable, Mapping

import jax
from jax.experimental import multihost_utils
from tqdm import tqdm

from avs_jax.train.clock import Clock
from avs_jax.train.step import HEALTHY, TOTALS
from avs_jax.train.writers import Writer

log = logging.getLogger(__name__)


class Preemption:
    """Notices SIGTERM (a preempted machine, a scheduler's time limit) without interrupting the step under way.

    In a job of several processes JAX notices it, for all of them, and they agree on the step at which they stop.
    """

    def __init__(self):
        self._noticed = False
        self._before = None

    def __enter__(self) -> Preemption:
        if not jax.distributed.is_initialized():
            self._before = signal.signal(signal.SIGTERM, self._notice)
        return self

    def __exit__(self, *_) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def requested(self, step: int) -> bool:
        """Whether to stop after `step`; ask once a step, in every process."""
        if jax.distributed.is_initialized():
            return multihost_utils.reached_preemption_sync_point(step)
        return self._noticed

    def _notice(self, *_) -> None:
        self._noticed = True


class Health:
    """Notices steps with a loss, gradients or parameters that are not finite, which the step has left without effect.

    It looks at each step a few steps later, so that the loop never waits for the devices, and at the same moment in
    every process.

    Args:
      stop: end the run at the first such step; otherwise count them.
      limit: how many may be skipped before the run ends.
      skipped: how many were before, in earlier processes of the run.
    """

    LAG = 4  # steps

    def __init__(self, stop: bool, limit: int, skipped: int = 0):
        self._limit, self._waiting = 0 if stop else limit, collections.deque()
        self.skipped = skipped

    def __call__(self, step: int, metrics: Mapping[str, jax.Array], settle: bool = False) -> None:
        """Takes the metrics of the step that ended as `step`; with `settle`, looks at all steps up to it.

        Raises:
          FloatingPointError: the run is to end; the message names the step and its first metric that is not finite.
        """
        self._waiting.append((step, metrics))
        while len(self._waiting) > (0 if settle else self.LAG):
            self._look(*self._waiting.popleft())

    def _look(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        if jax.device_get(metrics[HEALTHY]):
            return
        self.skipped += 1
        values = {name: float(value) for name, value in jax.device_get(dict(metrics)).items() if name != HEALTHY}
        # The terms first, of which the loss is the sum; what comes of the loss last.
        order = (*(name for name in values if name not in TOTALS), *TOTALS)
        name = next((name for name in order if not math.isfinite(values[name])), "a batch-norm statistic")
        said = f"step {step}: {name} is {values.get(name, 'not finite')}"
        if self.skipped > self._limit:
            raise FloatingPointError(
                f"{said}, in {self.skipped} steps so far; they changed nothing, and the last checkpoint is kept: lower "
                "optimizer.learning_rate, set optimizer.clip_norm, or train.on_nonfinite='skip' and train.max_skipped"
            )
        log.warning("%s; the step is skipped, %d of at most %d", said, self.skipped, self._limit)


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
        """Takes the metrics of the step that ended as `step`."""
        self._bar.update()
        if step % self._every and step != self._total:
            return
        values = jax.device_get({name: value for name, value in metrics.items() if name != HEALTHY})
        scalars = {f"train/{name}": float(value) for name, value in values.items()}
        speed = self._clock.lap((step - self._start) * self._clips)
        scalars |= {"train/learning_rate": float(self._rate(step - 1)), "train/clips_per_second": speed}
        scalars["train/seconds"] = self._clock.seconds()
        self._writers.scalars(step, scalars)
        loss = scalars["train/loss"]
        self._bar.set_postfix(loss=f"{loss:.4f}", clips_s=f"{speed:.1f}")
        if self._bar.disable:
            left = (self._total - step) * self._clips / max(speed, 1e-9)
            log.info("step %d/%d  loss %.4f  %.1f clips/s  %.0f s left", step, self._total, loss, speed, left)

    def close(self) -> None:
        """Ends the bar's line."""
        self._bar.close()
