"""Progress, logging and stopping."""

import os
import signal

import jax.numpy as jnp
import pytest

from avs_jax.train.clock import Clock
from avs_jax.train.hooks import Preemption, Progress


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


def test_a_loss_that_is_not_finite_stops_the_run():
    with pytest.raises(FloatingPointError, match="the loss is nan at step 2"):
        progress(Seen())(2, {"loss": jnp.float32(float("nan"))})


def test_sigterm_is_noticed_and_the_handler_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with Preemption() as preemption:
        assert not preemption.requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.requested
    assert signal.getsignal(signal.SIGTERM) is before
