"""What a run starts from: files and checkpoints, whole or in parts, resized or not, and what is left from scratch."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax import convert, models
from avs_jax.convert import output, parts, rules, tables
from avs_jax.train import optimizer, weights
from avs_jax.train import state as states
from data_pipeline import torch_file
from data_pipeline.batch import example_batch
from tests.integration import tiny


@pytest.fixture
def config():
    return tiny.get_config()


def fresh_state(config):
    """The state of a run at its start, everything in it 0."""
    tx = optimizer.create(config.optimizer, 1, {}, optimizer.never_trained(config.model))
    init = states.init_fn(models.create(config.model), tx, example_batch(1, 5, (64, 64)), 0, True)
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(init))


def random_file(path, table):
    draw = np.random.default_rng(0)
    made = {}
    for entry in table:
        counter = getattr(entry, "dtype", "") == "int64"
        made[entry.source] = np.zeros((), np.int64) if counter else draw.random(entry.shape, np.float32) + 1
    torch_file.save(path, made)
    return made


def arrays(state):
    return rules.flat({"params": state.params, **state.model_state})


def filled(state):
    """The top-level modules all of whose arrays are set, and those with arrays that still are 0."""
    all_of, some_of = set(), set()
    for path, array in arrays(state).items():
        (all_of if array.all() else some_of).add(path.split("/")[1])
    return all_of - some_of, some_of


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for path, array in expected.items():
        np.testing.assert_array_equal(found[path], array, err_msg=path)


def test_a_whole_file_and_its_checkpoint(tmp_path, config, caplog):
    state_dict = random_file(tmp_path / "model.pth", tables.model(config.model))
    variables = convert.from_torch(state_dict, config.model)
    output.write_checkpoint(tmp_path / "ours", variables, {}, "", overwrite=False)
    for name in ("model.pth", "ours"):
        config.init_from.model = str(tmp_path / name)
        with caplog.at_level(logging.INFO):
            state = weights.initialise(fresh_state(config), config, complete=True)
        assert_same(arrays(state), rules.flat(variables | {"dead": {}}))
        assert_same(rules.flat({"params": state.ema_params}), rules.flat({"params": variables["params"]}))
    assert f"head: weights of {tmp_path / 'ours'}" in caplog.messages
    assert not any("from scratch" in message for message in caplog.messages)


def test_parts_of_files_of_their_own_or_of_a_whole_model(tmp_path, config, caplog):
    whole = random_file(tmp_path / "model.pth", tables.model(config.model))
    variables = convert.from_torch(whole, config.model)
    torch_file.save(tmp_path / "backbone.pth", parts.part_of(whole, "backbone"))
    output.write_checkpoint(tmp_path / "ours", variables, {}, "", overwrite=False)
    for name in ("backbone.pth", "model.pth", "ours"):
        config.init_from.backbone = str(tmp_path / name)
        with caplog.at_level(logging.INFO):
            state = weights.initialise(fresh_state(config), config)
        assert filled(state) == ({"backbone"}, {"vggish", "audio_proj", "head"})
        np.testing.assert_array_equal(
            state.params["backbone"]["conv1"]["kernel"], variables["params"]["backbone"]["conv1"]["kernel"]
        )
    scratch = [message for message in caplog.messages if message.startswith("from scratch")]
    assert sorted(scratch[0].split(": ")[1].split(", ")) == ["audio_proj", "head", "vggish"]
    config.init_from.vggish = str(tmp_path / "model.pth")
    assert filled(weights.initialise(fresh_state(config), config)) == ({"backbone", "vggish"}, {"audio_proj", "head"})


def test_a_part_replaces_that_of_the_whole_model(tmp_path, config):
    whole = random_file(tmp_path / "model.pth", tables.model(config.model))
    twice = {name: 2 * array for name, array in parts.part_of(whole, "vggish").items()}
    torch_file.save(tmp_path / "vggish.pth", twice)
    config.init_from.update(model=str(tmp_path / "model.pth"), vggish=str(tmp_path / "vggish.pth"))
    state = weights.initialise(fresh_state(config), config)
    np.testing.assert_array_equal(state.params["vggish"]["fc0"]["bias"], 2 * whole["vggish.embeddings.0.bias"])
    np.testing.assert_array_equal(state.params["audio_proj"]["bias"], whole["audio_proj.bias"])


def test_other_classes_leave_the_last_layer_from_scratch(tmp_path, config, caplog):
    random_file(tmp_path / "binary.pth", tables.model(config.model))
    config.init_from.model = str(tmp_path / "binary.pth")
    config.model.num_classes = 71
    with caplog.at_level(logging.INFO):
        state = weights.initialise(fresh_state(config), config)
    empty = [path for path, array in arrays(state).items() if not array.any()]
    assert empty == ["params/head/predictor/tail_2/kernel"]
    assert "from scratch, 1 arrays: head/predictor/tail_2" in caplog.messages
    assert any("the file has 1 classes and the model 71" in message for message in caplog.messages)
    with pytest.raises(convert.ConversionError, match="leaves 1 arrays from scratch: head/predictor/tail_2;"):
        weights.initialise(fresh_state(config), config, complete=True)


def test_what_does_not_fit_is_listed(tmp_path, config):
    random_file(tmp_path / "model.pth", tables.model(config.model))
    config.init_from.model = str(tmp_path / "model.pth")
    config.model.num_queries = 5
    with pytest.raises(convert.ConversionError, match=r"head.learnable_query.weight \(4, 32\), expected \(5, 32\)"):
        weights.initialise(fresh_state(config), config)


def test_a_frozen_part_from_scratch_is_warned_of(config, caplog):
    config.model.vggish.frozen = True
    weights.initialise(fresh_state(config), config)
    assert "vggish is frozen and starts from scratch: give --config.init_from.vggish=FILE" in caplog.messages
