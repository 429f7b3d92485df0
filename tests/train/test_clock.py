"""The clock, with a time source of our own."""

from avs_jax.train.clock import Clock


def test_seconds_go_on_over_restarts_and_laps_give_speed():
    time = [100.0]
    first = Clock(lambda: time[0])
    time[0] = 110.0
    assert first.seconds() == 10.0
    assert first.lap(50) == 5.0
    time[0] = 112.0
    assert first.lap(60) == 5.0
    second = Clock(lambda: time[0])
    second.restore(first.state())
    time[0] = 115.0
    assert second.seconds() == 15.0
