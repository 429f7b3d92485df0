"""Conversion on Apache Beam's DirectRunner, in the environment in which Beam is installed (see conftest.py)."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from data_pipeline import avsbench, beam, convert, loader, records, schema, synthetic, tfrecord
from tests.data_pipeline.conversions import contents

CLIPS = {"train": 7, "val": 2, "test": 3}
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def task(request):
    return getattr(request, "param", "s4")


@pytest.fixture(scope="module")
def raw(task, tmp_path_factory):
    root = tmp_path_factory.mktemp("raw")
    synthetic.write(task, root, CLIPS, (32, 32), processes=1)
    return root


@pytest.fixture(scope="module")
def local(task, raw, tmp_path_factory):
    out = tmp_path_factory.mktemp("local")
    convert.convert(task, raw, out, processes=1, progress=False, shards_per_split=2)
    return out


def examples(out, task, split):
    """The parsed records of a split."""
    source = records.open_set(out, task).source(split)
    return [schema.decode(source[i]) for i in range(len(source))]


@pytest.mark.parametrize("task", ["s4", "avss"], indirect=True)
def test_the_records_are_those_of_the_local_conversion(task, raw, local, tmp_path):
    report = beam.convert_on_beam(task, raw, tmp_path, shards_per_split=2)
    assert {name: split["clips"] for name, split in report.splits.items()} == CLIPS
    for split in CLIPS:
        mine, theirs = (
            {record.name: repr(record) for record in examples(out, task, split)} for out in (tmp_path, local)
        )
        assert len(mine) == CLIPS[split] and mine == theirs
    assert contents(tmp_path).keys() == contents(local).keys()
    shards = [name for name in contents(local) if ".tfrecord-" in name]
    assert len(shards) == 12 and all(
        contents(tmp_path)[name] == contents(local)[name] for name in shards
    )  # and their indices
    mine, theirs = records.open_set(tmp_path, task), records.open_set(local, task)
    assert mine.fingerprint == theirs.fingerprint and mine.categories == theirs.categories
    again = beam.convert_on_beam(task, raw, tmp_path, shards_per_split=2)
    assert (again.shards_written, again.shards_kept) == (0, 6)
    with pytest.raises(convert.ConvertError, match="holds a complete set made from other data or settings"):
        beam.convert_on_beam(task, raw, tmp_path, shards_per_split=1)


def test_from_a_bucket_to_a_bucket(task, raw, local, bucket):
    address, folder = bucket
    shutil.copytree(raw, folder / "raw")
    report = beam.convert_on_beam(task, f"{address}/raw", f"{address}/records", shards_per_split=2)
    assert report.folder == f"{address}/records/avsbench_s4/1.0.0" and report.splits["test"]["clips"] == 3
    assert [path.name for path in (folder / "records/avsbench_s4").iterdir()] == ["1.0.0"]
    found = contents(folder / "records")
    assert found.keys() == contents(local).keys()
    assert all(found[name] == content for name, content in contents(local).items() if ".tfrecord-" in name)
    assert beam.convert_on_beam(task, f"{address}/raw", f"{address}/records", shards_per_split=2).shards_kept == 6


def test_damaged_clips_are_all_listed_and_nothing_is_written(raw, task, tmp_path):
    source = tmp_path / "raw"
    shutil.copytree(raw, source)
    broken = avsbench.find(task, source)[1]
    broken.frames[2].unlink()
    broken.masks[0].write_bytes(b"no picture")
    with pytest.raises(avsbench.DataError) as error:
        beam.convert_on_beam(task, source, tmp_path / "out")
    assert [problem.file for problem in error.value.problems] == [str(broken.frames[2]), str(broken.masks[0])]
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    report = beam.convert_on_beam(task, source, tmp_path / "out", skip_damaged=True)
    assert len(report.problems) == 2 and report.splits["train"]["clips"] == 6
    assert broken.name not in loader.clip_names(tmp_path / "out", "train")


def test_a_pipeline_that_fails_leaves_nothing(raw, task, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("the disk is gone")

    monkeypatch.setattr(tfrecord, "write_atomically", fail)
    with pytest.raises(Exception, match="the disk is gone"):
        beam.convert_on_beam(task, raw, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_command_takes_beams_own_options(raw, task, local, tmp_path):
    command = [sys.executable, "-m", "data_pipeline.convert", "--dataset", task, "--source", raw, "--out", tmp_path]
    options = "--runner=DirectRunner --direct_num_workers=2 --direct_running_mode=multi_processing"
    command += ["--runner", "beam", f"--beam-options={options}", "--shards", "2"]
    done = subprocess.run([*map(os.fspath, command)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "6 shards written, 0 kept, 0 problems" in done.stdout
    assert contents(tmp_path).keys() == contents(local).keys()
