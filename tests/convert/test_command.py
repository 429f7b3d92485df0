"""python -m avs_jax.convert: the authors' files in, checkpoints of ours out, and back, and a report of all of it."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from avs_jax import convert
from avs_jax.convert import output, parts, report, rules, tables
from data_pipeline import torch_file
from tests.integration import tiny

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def config():
    return tiny.get_config().model


@pytest.fixture(scope="module")
def state_dict(config):
    """As the authors' file of this model would be, its unused entries too."""
    draw = np.random.default_rng(0)
    made = {}
    for entry in tables.model(config):
        dtype = getattr(entry, "dtype", "float32")
        made[entry.source] = np.full(entry.shape, 7, dtype) if dtype == "int64" else normal(draw, entry.shape)
    return made


def normal(draw, shape):
    return draw.standard_normal(shape, np.float32).astype(np.float32).reshape(shape)


def command(*arguments):
    line = [sys.executable, "-m", "avs_jax.convert", "--config", "tests/integration/tiny.py", *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True)


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_a_file_goes_into_a_checkpoint_and_back_bit_for_bit(tmp_path, config, state_dict):
    torch_file.save(tmp_path / "theirs.pth", {"state_dict": {f"module.{name}": a for name, a in state_dict.items()}})
    done = command(tmp_path / "theirs.pth", "--out", tmp_path / "ours")
    assert done.returncode == 0, done.stderr
    back = command(tmp_path / "ours", "--to-torch", tmp_path / "back.pth")
    assert back.returncode == 0, back.stderr
    assert_same(torch_file.load(tmp_path / "back.pth"), state_dict)
    found = convert.read(tmp_path / "ours")
    assert rules.is_flat(found)
    assert_same(convert.to_torch(convert.from_torch(found, config), config), state_dict)

    lines = done.stdout.splitlines()
    assert lines[0].split("\t") == list(report.COLUMNS)
    rows = {line.split("\t")[0]: line.split("\t")[1:] for line in lines[1:] if line.count("\t") == 4}
    assert rows.keys() == state_dict.keys()
    kernel = state_dict["audio_proj.weight"]
    assert rows["audio_proj.weight"] == ["params/audio_proj/kernel", "32x8", "float32", f"{np.linalg.norm(kernel):.6g}"]
    assert rows["head.fpn.up1.1.bias"][0] == "(never used)"
    assert rows["head.fusion_block.kv_proj.weight"][0] == (
        "params/head/mixer/key/kernel + params/head/mixer/value/kernel"
    )
    assert (tmp_path / "ours" / "report.tsv").read_text().splitlines() == lines[: len(rows) + 1]
    meta = json.loads((tmp_path / "ours" / "0" / "meta" / "metadata").read_text())
    assert meta["source"] == "theirs.pth" and meta["config"]["model.embed_dim"] == 32


def test_mistakes_are_one_line_and_write_nothing(tmp_path, state_dict):
    torch_file.save(tmp_path / "theirs.pth", {name: a for name, a in state_dict.items() if "audio_proj" not in name})
    done = command(tmp_path / "theirs.pth", "--out", tmp_path / "ours", "--to-torch", tmp_path / "back.pth")
    assert done.returncode == 2
    assert "missing: audio_proj.weight (32, 8)" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "ours").exists() and not (tmp_path / "back.pth").exists()
    (tmp_path / "back.pth").touch()
    done = command(tmp_path / "theirs.pth", "--out", tmp_path / "ours", "--to-torch", tmp_path / "back.pth")
    assert done.returncode == 2 and "back.pth exists" in done.stderr
    assert not (tmp_path / "ours").exists() and not (tmp_path / "back.pth").stat().st_size
    nowhere = command(tmp_path / "theirs.pth")
    assert nowhere.returncode != 0 and "--out DIR" in nowhere.stdout + nowhere.stderr


def test_the_counts_are_pytorchs(config, state_dict):
    rows = report.rows(state_dict, tables.model(config))
    found = report.counts(rows)
    floats = {name: a for name, a in state_dict.items() if a.dtype == np.float32}
    assert sum(sum(kinds.values()) for kinds in found.values()) == sum(a.size for a in floats.values())
    unused = sum(a.size for name, a in floats.items() if name.startswith(("head.fpn", "head.attn_fc")))
    assert found["head"][report.UNUSED] == unused
    assert found["audio_proj"][report.PARAMETERS] == 32 * 8 + 32
    parameters = sum(a.size for name, a in floats.items() if "running_" not in name)
    assert f"{parameters:,} parameters in {len(state_dict)} tensors" in report.summary(rows)


@pytest.mark.parametrize("part", ["backbone", "vggish"])
def test_a_part_is_taken_out_of_a_whole_file_or_checkpoint(tmp_path, config, state_dict, part):
    whole = convert.from_torch(state_dict, config)
    from_file = parts.convert_part(state_dict, config, part)
    from_ours = parts.convert_part(rules.flat(whole), config, part, publisher="avsegformer")
    for found in (from_file, from_ours):
        assert list(found.variables["params"]) == [part]
        assert_same(
            rules.flat({"params": found.variables["params"]}), rules.flat({"params": {part: whole["params"][part]}})
        )
        assert_same(found.state_dict, parts.part_of(state_dict, part))
    output.write_checkpoint(tmp_path / "part", from_file.variables, {}, "", overwrite=False)
    again = parts.convert_part(convert.read(tmp_path / "part"), config, part, publisher="avsegformer")
    assert_same(again.state_dict, from_file.state_dict)


def test_whose_names_a_backbone_gets_is_asked_for(config, state_dict):
    ours = rules.flat(convert.from_torch(state_dict, config))
    with pytest.raises(convert.ConversionError, match="--publisher, one of avsegformer, .*torchvision"):
        parts.convert_part(ours, config, "backbone")
    with pytest.raises(convert.ConversionError, match="no part 'text', but backbone, vggish"):
        parts.part_of(ours, "text")


def test_what_is_there_is_not_overwritten(tmp_path):
    variables = {"params": {"a": np.float32([1, 2])}, "batch_stats": {}, "dead": {"b": np.int64(2**40)}}
    folder, other = tmp_path / "ours", {**variables, "params": {"a": np.float32([3, 4])}}
    output.write_checkpoint(folder, variables, {}, "report", overwrite=False)
    with pytest.raises(output.OutputError, match="add --overwrite"):
        output.write_checkpoint(folder, other, {}, "report", overwrite=False)
    np.testing.assert_array_equal(convert.read(folder)["params/a"], [1, 2])
    assert convert.read(folder)["dead/b"] == 2**40
    output.write_checkpoint(folder, other, {}, "report", overwrite=True)
    np.testing.assert_array_equal(convert.read(folder)["params/a"], [3, 4])
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]

    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").touch()
    with pytest.raises(output.OutputError, match="no conversion of ours"):
        output.write_checkpoint(photos, variables, {}, "report", overwrite=True)
    with pytest.raises(output.OutputError, match="is a file"):
        output.write_checkpoint(photos / "cat.jpg", variables, {}, "report", overwrite=True)
    with pytest.raises(output.OutputError, match="cat.jpg exists"):
        output.write_torch(photos / "cat.jpg", {}, overwrite=False)
    with pytest.raises(output.OutputError, match="folder does not exist"):
        output.write_torch(tmp_path / "none" / "x.pth", {}, overwrite=True)
    assert (photos / "cat.jpg").exists()


def test_a_damaged_checkpoint_is_not_read(tmp_path):
    variables = {"params": {"a": np.arange(5000, dtype=np.float32)}, "batch_stats": {}}
    output.write_checkpoint(tmp_path / "ours", variables, {}, "report", overwrite=False)
    largest = max((p for p in (tmp_path / "ours/0/weights").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    with pytest.raises(RuntimeError, match="ours/0 cannot be read"):
        convert.read(tmp_path / "ours")
    with pytest.raises(RuntimeError, match="no finished checkpoint"):
        convert.read(tmp_path)
