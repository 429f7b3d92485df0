"""The training step: determinism, freezing, accumulation, averaging, batch statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from avs_jax import models
from avs_jax.train import optimizer
from avs_jax.train import state as states
from avs_jax.train.step import make_train_step


def batch(clips=4, frames=1, size=64):
    rng = np.random.default_rng(0)
    return {
        "frames": rng.integers(0, 256, (clips, frames, size, size, 3)).astype(np.uint8),
        "log_mel": rng.normal(-3, 1, (clips, frames, 96, 64)).astype(np.float32),
        "masks": (rng.random((clips, frames, size, size)) > 0.5).astype(np.uint8),
        "frame_valid": np.ones((clips, frames), bool),
        "mask_valid": np.ones((clips, frames), bool),
        "clip_valid": np.ones(clips, bool),
    }


def without_dropout(config):
    config.model.encoder.dropout = config.model.decoder.dropout = config.model.backbone.drop_path = 0.0
    return config


def pvt(config):
    """A backbone whose clips do not see each other, unlike a ResNet's in batch norm."""
    config.model.backbone.update(name="pvt_v2_b0", depths=(1, 1, 1, 1), widths=(8, 8, 20, 16))
    return config


def start(config, frozen=(), tx=None):
    model = models.create(config.model)
    tx = tx or optimizer.create(config.optimizer, 100, {}, frozen)
    init = states.init_fn(model, tx, batch(), config.seed, config.train.ema_decay > 0)
    return jax.jit(init)(), jax.jit(make_train_step(model, tx, config, frozen))


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_the_loss_falls_and_the_run_is_deterministic(tiny_config):
    state, step = start(tiny_config)
    first, seen = state, []
    for _ in range(8):
        state, metrics = step(state, batch())
        seen.append(float(metrics["loss"]))
    assert seen[-1] < seen[0]
    assert int(state.step) == 8
    assert not same(first.model_state, state.model_state)  # batch norm follows the data
    again, _ = step(first, batch())
    once_more, _ = step(first, batch())
    assert same(again, once_more)
    moved, _ = step(first.replace(step=jnp.int32(1)), batch())
    assert not same(again.params, moved.params)  # another step, another dropout

    broken = batch()
    broken["log_mel"][0, 0, 0, 0] = np.nan
    unchanged, metrics = step(state, broken)
    assert not metrics["healthy"] and not np.isfinite(metrics["loss"])
    assert int(unchanged.step) == 9
    assert same(unchanged.replace(step=state.step), state)


def test_frozen_parts_keep_their_parameters_but_not_their_batch_statistics(tiny_config):
    state, step = start(tiny_config, frozen=("backbone", "vggish"))
    after, _ = step(state, batch())
    assert same(state.params["backbone"], after.params["backbone"])
    assert same(state.params["vggish"], after.params["vggish"])
    assert not same(state.params["head"], after.params["head"])
    assert not same(state.model_state, after.model_state)


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_equals_the_whole_batch(tiny_config, parts):
    config = pvt(without_dropout(tiny_config))
    tx = optax.sgd(0.1)
    state, whole = start(config, tx=tx)
    expected, metrics = whole(state, batch())
    config.train.accumulate = parts
    _, accumulated = start(config, tx=tx)
    found, found_metrics = accumulated(state, batch())
    np.testing.assert_allclose(found_metrics["loss"], metrics["loss"], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(expected.params), jax.tree.leaves(found.params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


@pytest.mark.parametrize("parts", [3, 12])
def test_frames_of_clips_can_follow_each_other(tiny_config, parts):
    """Where all carry a loss: twelve frames of four clips, four or one at a time."""
    config = pvt(without_dropout(tiny_config))
    config.loss.frames, tx = "all", optax.sgd(0.1)
    state, whole = start(config, tx=tx)
    expected, metrics = whole(state, batch(frames=3))
    config.train.accumulate = parts
    _, accumulated = start(config, tx=tx)
    found, found_metrics = accumulated(state, batch(frames=3))
    np.testing.assert_allclose(found_metrics["loss"], metrics["loss"], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(expected.params), jax.tree.leaves(found.params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_the_average_follows_the_parameters(tiny_config):
    tiny_config.train.ema_decay = 0.9
    state, step = start(tiny_config)
    after, _ = step(state, batch())
    trees = (state.params, after.params, after.ema_params)
    old, new, average = (np.asarray(tree["audio_proj"]["kernel"]) for tree in trees)
    np.testing.assert_allclose(average, 0.9 * old + 0.1 * new, rtol=1e-5)
    assert same(after.variables()["params"], after.ema_params)
    assert same(after.with_items(state.items()), state)


def test_clips_of_padding_change_nothing(tiny_config):
    config = pvt(without_dropout(tiny_config))
    state, step = start(config, tx=optax.sgd(0.1))
    part = batch()
    part["clip_valid"][3] = False
    expected, _ = step(state, part)
    part["frames"][3], part["log_mel"][3], part["masks"][3] = 0, 9.0, 1
    found, _ = step(state, part)
    assert same(expected.params, found.params)
