"""Timing runs against each other on a machine that others may use too."""

from __future__ import annotations

import math
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple


class Sample(NamedTuple):
    """Seconds of one run: on the clock, and of processor time over all threads and the processes that ended in it."""

    wall: float
    cpu: float


class Ratio(NamedTuple):
    """How many times longer one side takes: by the medians of all runs, and the range over rounds."""

    value: float
    low: float
    high: float


Rounds = list[list[Sample]]


def alternate(sides: Mapping[str, Callable[[], None]], rounds: int, seconds: float) -> dict[str, Rounds]:
    """Times callables that block until they are done, in the order A B A B ...

    Each runs once to warm up and once to see how often it must run for a round of about `seconds`. A round begins with
    a run that does not count: in it a side takes back the memory and the caches that the other one had.

    Returns:
      For each side the samples of each round.
    """
    repeats = {name: _repeats(run, seconds) for name, run in sides.items()}
    found: dict[str, Rounds] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            run()
            found[name].append([once(run) for _ in range(repeats[name])])
    return found


def once(run: Callable[[], None]) -> Sample:
    """Times one run."""
    wall, cpu = time.perf_counter(), _processor_time()
    run()
    return Sample(time.perf_counter() - wall, _processor_time() - cpu)


def median(rounds: Rounds) -> Sample:
    """The median of the runs of all rounds."""
    samples = [sample for samples in rounds for sample in samples]
    return Sample(*(statistics.median(values) for values in zip(*samples, strict=True)))


def ratios(ours: Rounds, theirs: Rounds) -> dict[str, Ratio]:
    """How many times longer `theirs` take, by the clock ("wall") and in processor time ("cpu")."""
    whole = _divide(median(theirs), median(ours))
    by_round = [_divide(median([b]), median([a])) for a, b in zip(ours, theirs, strict=True)]
    return {
        name: Ratio(value, min(values), max(values))
        for name, value, values in zip(Sample._fields, whole, zip(*by_round, strict=True), strict=True)
    }


def _processor_time() -> float:
    usage = (resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in usage)


def _repeats(run: Callable[[], None], seconds: float) -> int:
    run()
    return max(1, math.ceil(seconds / once(run).wall))


def _divide(a: Sequence[float], b: Sequence[float]) -> Sample:
    return Sample(*(x / max(y, 1e-9) for x, y in zip(a, b, strict=True)))
