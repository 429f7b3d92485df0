"""Timing in turns, and what is made of the samples."""

import subprocess
import sys

import pytest

from avs_jax.benchmark import timing
from avs_jax.benchmark.timing import Sample


def test_sides_take_turns():
    calls = []
    found = timing.alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2, seconds=0)
    assert "".join(calls) == "aabb" + 2 * "aabb"  # twice each to warm up, then in turns, each time with one uncounted
    assert {name: [len(samples) for samples in rounds] for name, rounds in found.items()} == {"a": [1, 1], "b": [1, 1]}


def test_a_round_takes_about_the_time_that_was_asked_for():
    def run():
        sum(range(20_000))

    (samples,) = timing.alternate({"a": run}, rounds=1, seconds=0.05)["a"]
    assert len(samples) > 1
    assert all(sample.wall > 0 and sample.cpu > 0 for sample in samples)


def test_processes_that_end_meanwhile_count():
    busy = "import time\nwhile time.process_time() < 0.5: pass"
    assert timing.once(lambda: subprocess.run([sys.executable, "-c", busy], check=True)).cpu > 0.45


def test_ratios_are_of_medians_with_the_range_of_the_rounds():
    ours = [[Sample(1, 2), Sample(1, 2), Sample(9, 9)], [Sample(2, 2)]]
    theirs = [[Sample(2, 2)], [Sample(6, 4)]]
    found = timing.ratios(ours, theirs)
    assert timing.median(ours) == (1.5, 2)
    assert found["wall"] == pytest.approx((4 / 1.5, 2, 3))
    assert found["cpu"] == pytest.approx((1.5, 1, 2))
