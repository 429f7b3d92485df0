"""The feed: batches of the contract on the devices, and a state that belongs to the batch delivered last."""

import jax
import numpy as np
import pytest

from avs_jax.parallel import mesh as meshes
from avs_jax.train import feed
from data_pipeline.loader import StateError


@pytest.fixture
def config(tiny_config, records):
    tiny_config.data.records = records
    return tiny_config


def test_the_state_is_of_the_batch_delivered_last(config):
    mesh = meshes.create()
    first = feed.Feed(config, mesh)
    peeked = first.peek()
    batches = [next(first) for _ in range(2)]
    state = first.state
    expected = next(first)
    second = feed.Feed(config, mesh)
    second.restore(state)
    found = next(second)
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_array_equal(found[name], expected[name])
    np.testing.assert_array_equal(peeked["frames"], batches[0]["frames"])
    assert not np.array_equal(batches[0]["frames"], batches[1]["frames"])
    assert isinstance(found["frames"], jax.Array)
    assert found["frames"].shape == (4, 1, 64, 64, 3)  # supervised frames only
    first.close()
    second.close()


def test_a_state_of_other_settings_is_refused(config):
    mesh = meshes.create()
    state = feed.Feed(config, mesh).state
    config.train.batch_size = 3
    with pytest.raises(StateError, match="batch_size was 4, is 3"):
        feed.Feed(config, mesh).restore(state)


def test_evaluation_covers_the_split_once_and_marks_padding(config):
    batches = list(feed.evaluation_batches(config, "test", "true"))
    index = np.concatenate([batch["clip_index"] for batch in batches])
    valid = np.concatenate([batch["clip_valid"] for batch in batches])
    assert index[valid].tolist() == np.repeat(range(5), 5).tolist()
    assert index[~valid].tolist() == [-1] * 5
    assert {batch["frames"].shape for batch in batches} == {(10, 1, 64, 64, 3)}  # clips of one frame each


def test_silence_changes_the_sound_alone(config):
    (true, *_), (silent, *_) = (list(feed.evaluation_batches(config, "test", audio)) for audio in ("true", "silence"))
    np.testing.assert_array_equal(true["frames"], silent["frames"])
    np.testing.assert_allclose(silent["log_mel"], np.log(0.01), rtol=1e-6)
    assert np.abs(true["log_mel"] - silent["log_mel"]).max() > 1


def test_a_batch_that_devices_cannot_share_is_named():
    mesh = meshes.create()
    if jax.local_device_count() == 1:
        assert meshes.put_batch({"frames": np.zeros((3, 2))}, mesh)["frames"].shape == (3, 2)
    else:
        with pytest.raises(ValueError, match="cannot be split over"):
            meshes.put_batch({"frames": np.zeros((jax.local_device_count() + 1, 2))}, mesh)


def test_no_more_processes_read_than_there_are_cores(config, monkeypatch):
    config.data.workers = 3
    for there, found in ((1, 1), (2, 2), (8, 3)):
        monkeypatch.setattr(feed, "cores", lambda there=there: there)
        assert feed.options(config, training=True).workers == feed.options(config, training=False).workers == found
