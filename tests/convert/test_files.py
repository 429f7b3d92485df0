"""Files of weights of every kind, wrapped as training scripts wrap them."""

import collections
import pickle

import ml_dtypes
import numpy as np
import pytest

from avs_jax import convert
from avs_jax.convert import safetensors_file
from data_pipeline import torch_file
from data_pipeline.problems import BadFile
from tests.convert.arrays import assert_same

STATE = {"conv.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "bn.num_batches_tracked": np.array(3)}
PREFIXED = {f"module.{name}": array for name, array in STATE.items()}


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        collections.OrderedDict(STATE),
        {"state_dict": STATE, "epoch": 3, "optimizer": {"lr": 1e-4, "betas": (0.9, 0.999)}},
        {"model": STATE, "__author__": "third_party", "matching_heuristics": True},
        {"model": {"state_dict": PREFIXED}, "epoch": 3},
        {"state_dict": PREFIXED},
        PREFIXED,
    ],
)
@pytest.mark.parametrize("ending", [".pth", ".pt", ".bin"])
def test_a_state_dict_is_found_in_its_wrappings(tmp_path, content, ending):
    torch_file.save(tmp_path / f"file{ending}", content)
    assert_same(convert.read(tmp_path / f"file{ending}"), STATE)


def test_pickled_numpy_arrays_are_read(tmp_path):
    path = tmp_path / "detectron2.pkl"
    path.write_bytes(pickle.dumps({"model": STATE, "__author__": "third_party", "matching_heuristics": True}))
    assert_same(convert.read(path), STATE)


def test_safetensors_are_read(tmp_path):
    safetensors_file.write(tmp_path / "model.safetensors", PREFIXED)
    assert_same(convert.read(str(tmp_path / "model.safetensors")), STATE)


def test_a_prefix_that_only_some_names_have_is_theirs(tmp_path):
    state = {"module.a": np.zeros(1), "b": np.zeros(1)}
    torch_file.save(tmp_path / "file.pth", state)
    assert_same(convert.read(tmp_path / "file.pth"), state)


def test_an_entry_that_is_called_model_is_no_wrapper(tmp_path):
    state = {"model": np.zeros(2), "state_dict": np.ones(3)}
    torch_file.save(tmp_path / "file.pth", state)
    assert_same(convert.read(tmp_path / "file.pth"), state)


def test_half_precision_stays_as_it_is(tmp_path):
    state = {"a": np.float16([0.1]), "b": np.array([0.1], ml_dtypes.bfloat16)}
    torch_file.save(tmp_path / "file.pth", state)
    assert_same(convert.read(tmp_path / "file.pth"), state)


@pytest.mark.parametrize(
    "content, message",
    [
        ({"epoch": 3, "weights": STATE}, "other things than arrays: epoch, weights"),
        ([1, 2], "holds a list, not a state dict"),
        ({}, "holds nothing"),
        ({"state_dict": {}}, "holds nothing"),
    ],
)
def test_what_is_no_state_dict_is_named(tmp_path, content, message):
    torch_file.save(tmp_path / "file.pth", content)
    with pytest.raises(BadFile, match=message):
        convert.read(tmp_path / "file.pth")


@pytest.mark.parametrize(
    "name, message",
    [("missing.pth", "the file is missing"), ("weights.npz", r"ends in '.npz'")],
)
def test_what_is_no_file_of_weights_is_named(tmp_path, name, message):
    (tmp_path / "weights.npz").write_bytes(b"x")
    with pytest.raises(BadFile, match=f"{name}: .*{message}"):
        convert.read(tmp_path / name)
