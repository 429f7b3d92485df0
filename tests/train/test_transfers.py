"""What moves between host and devices in a training loop: batches ahead of their step, as bytes, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax.parallel import mesh as meshes
from avs_jax.train import feed
from avs_jax.train.state import TrainState
from avs_jax.train.step import by_shape


@pytest.fixture
def stream(tiny_config, records):
    tiny_config.data.records = records
    made = feed.Feed(tiny_config, meshes.create(tiny_config.mesh))
    yield made
    made.close()


def start(tiny_config):
    params = {"head": jnp.zeros(8)}
    state = TrainState(jnp.int32(0), params, {}, {}, {}, jax.random.key_data(jax.random.key(0)))
    return jax.device_put(state, meshes.replicated(meshes.create(tiny_config.mesh)))


def counting(traced):
    """A step that takes no model, and notes the shapes that it is compiled for."""

    def step(state, batch):
        traced.append(batch["frames"].shape)
        brightness = jnp.mean(batch["frames"].astype(jnp.float32))
        params = jax.tree.map(lambda x: x + brightness, state.params)
        return state.replace(step=state.step + 1, params=params), {"loss": brightness}

    return step


def test_the_loop_waits_for_no_transfer_and_holds_one_state(tiny_config, stream):
    state, step, metrics = start(tiny_config), by_shape(counting([])), []
    with jax.transfer_guard("disallow"):
        for _ in range(3):
            batch, before = next(stream), state
            assert batch["frames"].dtype == np.uint8  # normalised on the device
            state, found = step(state, batch)
            metrics.append(found)
            assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before.params))  # donated
    assert int(state.step) == 3
    assert np.isclose(state.params["head"][0], sum(float(found["loss"]) for found in metrics))


def test_what_is_on_the_host_does_not_slip_into_a_step(tiny_config, stream):
    state, step = start(tiny_config), by_shape(counting([]))
    batch = next(stream)
    state, _ = step(state, batch)
    with jax.transfer_guard("disallow"), pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        step(state, jax.device_get(batch))


def test_each_shape_of_batch_is_compiled_once(tiny_config, stream):
    state, traced = start(tiny_config), []
    step = by_shape(counting(traced))
    whole = next(stream)
    half = {name: value[:2] for name, value in whole.items()}
    for batch in (whole, half, whole, half):
        state, _ = step(state, batch)
    assert traced == [(4, 1, 64, 64, 3), (2, 1, 64, 64, 3)]


def test_the_next_batch_is_on_the_devices_before_it_is_asked_for(stream, monkeypatch):
    sent, put = [], meshes.put_batch
    monkeypatch.setattr(feed.meshes, "put_batch", lambda *arguments: sent.append(put(*arguments)) or sent[-1])
    for asked in range(1, 4):
        assert next(stream) is sent[asked - 1]
        assert len(sent) == asked + 1
