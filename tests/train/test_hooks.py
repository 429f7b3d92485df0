"""Progress, logging and stopping."""

import os
import signal

import jax.numpy as jnp
import pytest

from avs_jax.train.clock import Clock
from avs_jax.train.hooks import Health, Preemption, Progress


class Seen:
    """A writer that remembers."""

    def __init__(self):
        self.lines = []

    def scalars(self, step, values):
        self.lines.append((step, values))


def progress(writer, total=5, every=2):
    return Progress(writer, Clock(), 0, total, every, clips=4, rate=lambda step: 0.1 * step)


def test_metrics_are_written_every_few_steps_and_at_the_end():
    writer = Seen()
    hook = progress(writer)
    for step in range(1, 6):
        hook(step, {"loss": jnp.float32(step), "main": jnp.float32(0)})
    assert [step for step, _ in writer.lines] == [2, 4, 5]
    values = writer.lines[0][1]
    assert values["train/loss"] == 2.0
    assert values["train/learning_rate"] == pytest.approx(0.1)
    assert values["train/clips_per_second"] > 0


def seen(loss, **terms):
    """The metrics of a step, with a flag that says whether all of them are finite."""
    values = {**terms, "loss": loss, "gradient_norm": loss, "parameter_norm": 1.0}
    metrics = {name: jnp.float32(value) for name, value in values.items()}
    return metrics | {"healthy": jnp.all(jnp.isfinite(jnp.stack(list(metrics.values()))))}


def test_a_step_that_is_not_finite_stops_the_run_a_few_steps_later():
    health = Health(stop=True, limit=5)
    health(1, seen(1.0, main=1.0))
    health(2, seen(float("nan"), main=0.5, mix=float("inf")))
    for step in range(3, 2 + Health.LAG):
        health(step, seen(1.0))
    with pytest.raises(FloatingPointError, match=r"step 2: mix is inf, in 1 steps so far.*the last checkpoint is kept"):
        health(2 + Health.LAG, seen(1.0))


def test_before_a_save_no_step_is_left_to_look_at():
    with pytest.raises(FloatingPointError, match="step 1: loss is nan"):
        Health(stop=True, limit=5)(1, seen(float("nan")), settle=True)


def test_steps_are_skipped_up_to_a_limit_over_restarts(caplog):
    health = Health(stop=False, limit=3, skipped=1)
    for step in (1, 2):
        health(step, seen(float("nan")), settle=True)
    assert health.skipped == 3
    assert "step 2: loss is nan; the step is skipped, 3 of at most 3" in caplog.text
    with pytest.raises(FloatingPointError, match="in 4 steps so far"):
        health(3, seen(float("inf")), settle=True)


def test_sigterm_is_noticed_and_the_handler_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with Preemption() as preemption:
        assert not preemption.requested(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.requested(2)
    assert signal.getsignal(signal.SIGTERM) is before
