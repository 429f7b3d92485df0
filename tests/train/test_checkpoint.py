"""Checkpoints: kept steps, checksums, fallback from damage, restarts."""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax.train import checkpoint


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


def make(folder, latest=2, best=1):
    return checkpoint.Checkpoints(folder, latest, best, "clip/J")


def state(step):
    variables = {"params": {"kernel": jnp.arange(5000.0) + step}, "ema_params": {}}
    return {"variables": variables, "training": {"step": jnp.int32(step), "rng": jnp.uint32([1, step])}}


def like():
    layout = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout), state(0))


def largest_file(folder: pathlib.Path) -> pathlib.Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=os.path.getsize)


def save(checkpoints, *steps, metric=lambda step: None):
    for step in steps:
        value = metric(step)
        checkpoints.save(step, state(step), {"data": {"next": step}}, None if value is None else {"clip/J": value})
    checkpoints.wait()


def test_restores_what_was_saved(folder):
    first = make(folder)
    save(first, 3, 7)
    first.close()
    found, meta = make(folder).restore(like())
    np.testing.assert_array_equal(found["variables"]["params"]["kernel"], np.arange(5000.0) + 7)
    assert int(found["training"]["step"]) == 7
    assert meta == {"data": {"next": 7}}


def test_an_item_is_restored_by_itself(folder):
    first = make(folder)
    save(first, 3)
    found, _ = first.restore({"variables": like()["variables"]})
    assert list(found) == ["variables"]
    np.testing.assert_array_equal(found["variables"]["params"]["kernel"], np.arange(5000.0) + 3)


def test_what_is_being_saved_comes_to_its_end_where_the_work_fails(folder):
    checkpoints = make(folder)
    with pytest.raises(ZeroDivisionError), checkpoints.finishing():
        checkpoints.save(3, state(3), {"data": {"next": 3}})
        raise ZeroDivisionError
    assert [path.name for path in folder.iterdir()] == ["3"]


def test_what_cannot_be_written_is_an_error_that_keeps_what_was_there(folder, monkeypatch):
    checkpoints = make(folder)
    save(checkpoints, 3)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints._manager, "save", full)
    with pytest.raises(checkpoint.CheckpointError, match=r"No space left on device; those that are finished are kept"):
        save(checkpoints, 4)
    assert [path.name for path in folder.iterdir()] == ["3"]


def test_nothing_there(folder):
    assert make(folder).restore(like()) is None


def test_keeps_the_newest_and_the_best_over_restarts(folder):
    first = make(folder)
    save(first, 1, 2, 3, metric=lambda step: -step)  # step 1 is the best
    first.close()
    second = make(folder)
    save(second, 4, 5, metric=lambda step: -step)
    assert second.restore(like(), best=True)[1]["data"] == {"next": 1}
    assert second.restore(like())[1]["data"] == {"next": 5}
    assert sorted(p.name for p in folder.iterdir()) == ["1", "4", "5"]


def test_a_flipped_byte_falls_back_to_the_step_before(folder, caplog):
    first = make(folder)
    save(first, 1, 2)
    first.close()
    path = largest_file(folder / "2" / "variables")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)

    second = make(folder)
    found, meta = second.restore(like())
    assert meta["data"] == {"next": 1}
    assert int(found["training"]["step"]) == 1
    assert "2 is damaged" in caplog.text
    assert (folder.parent / "damaged-2").is_dir()
    save(second, 2)  # the step's place is free again
    assert make(folder).restore(like())[1]["data"] == {"next": 2}


def test_a_changed_number_in_the_meta_data_is_noticed(folder):
    first = make(folder)
    save(first, 10, 20)
    first.close()
    (path,) = [p for p in (folder / "20" / "meta").rglob("*") if p.is_file() and '"next":' in p.read_text()]
    path.write_text(path.read_text().replace('"next": 20', '"next": 21').replace('"next":20', '"next":21'))
    assert make(folder).restore(like())[1]["data"] == {"next": 10}


def test_an_empty_step_directory_is_not_the_newest(folder):
    first = make(folder)
    save(first, 1)
    first.close()
    (folder / "5").mkdir()
    assert make(folder).restore(like())[1]["data"] == {"next": 1}


def test_all_damaged_is_an_error_and_nothing_is_removed(folder):
    first = make(folder)
    save(first, 1)
    first.close()
    largest_file(folder / "1" / "variables").unlink()
    with pytest.raises(checkpoint.CheckpointError, match="step 1"):
        make(folder).restore(like())
    assert (folder / "1").is_dir()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32, jnp.uint8, jnp.bool_])
def test_a_checksum_notices_every_single_change(dtype):
    x = np.zeros(37, dtype)
    sums = {tuple(checkpoint.checksums({"x": jnp.asarray(x)}).values())}
    for index in range(x.size):
        changed = x.copy()
        changed[index] = 1
        sums.add(tuple(checkpoint.checksums({"x": jnp.asarray(changed)}).values()))
    assert len(sums) == x.size + 1


def test_weights_are_read_from_a_run_a_folder_of_steps_or_a_step(tmp_path):
    checkpoints = checkpoint.Checkpoints(tmp_path / "checkpoints", 3, 1, "clip/J")
    for step, value in ((1, 0.2), (2, 0.9), (3, 0.5)):
        weights = {"params": {"kernel": jnp.full(3, step)}, "model_state": {}, "ema_params": {}}
        checkpoints.save(step, {"weights": weights, "training": {"rng": jnp.uint32(1)}}, {}, {"clip/J": value})
    checkpoints.close()

    def read(folder):
        items = checkpoint.read_weights(folder)
        assert list(items) == ["weights"]
        assert isinstance(items["weights"]["params"]["kernel"], np.ndarray)
        return items["weights"]["params"]["kernel"][0]

    assert read(tmp_path / "checkpoints") == read(tmp_path) == 3  # no configuration says which metric is the best
    (tmp_path / "config.json").write_text('{"checkpoint.best_metric": "clip/J"}')
    assert read(tmp_path) == 2
    assert read(tmp_path / "checkpoints" / "1") == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(), (3, 5), (300, 500), (0, 2)])
def test_checksums_are_the_same_on_host_and_device(dtype, shape):
    array = np.asarray(jax.random.normal(jax.random.key(0), shape) * 9).astype(jnp.dtype(dtype))
    assert checkpoint.checksums({"a": array}) == checkpoint.checksums({"a": jnp.asarray(array)})
    if array.size:
        changed = array.copy()
        changed.reshape(-1)[-1] = not changed.reshape(-1)[-1]
        assert checkpoint.checksums({"a": array}) != checkpoint.checksums({"a": changed})
