"""Conversion of small synthetic sets: what is written, what is refused, what survives an interruption."""

import errno
import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipeline import avsbench, convert, loader, records, schema, synthetic, tfrecord
from data_pipeline.loader import LoaderOptions

REPOSITORY = Path(__file__).parents[2]
CLIPS = {"train": 5, "val": 2, "test": 2}
SIZE = (64, 64)
TABLES = {"s4": "s4_meta_data.csv", "ms3": "ms3_meta_data.csv", "avss": "metadata.csv"}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A raw set of each task."""
    root = tmp_path_factory.mktemp("raw")
    for task in TABLES:
        synthetic.write(task, root / task, CLIPS, SIZE, processes=1)
    return root


def run(raw, out, task="s4", **settings):
    return convert.convert(task, raw / task, out, **{"processes": 1, "progress": False} | settings)


def contents(out):
    """Every file of a converted set but those that tell the time."""
    files = (path for path in Path(out).rglob("*") if path.is_file() and path.name not in ("report.json", ".lock"))
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def whole(raw, tmp_path_factory):
    """Each task converted without trouble, in one go, by one process."""
    out = tmp_path_factory.mktemp("whole")
    for task in TABLES:
        run(raw, out, task, shards_per_split=2)
    return out


@pytest.mark.parametrize("task", TABLES)
def test_tfds_reads_what_the_raw_files_hold(raw, whole, task):
    """Through TFDS alone: `builder_from_directory`, its paths, its deserialisation."""
    info = tfds.builder_from_directory(str(records.set_folder(whole, task))).info
    assert {name: split.num_examples for name, split in info.splits.items()} == CLIPS
    assert info.splits["train"].shard_lengths == [3, 2]
    for split in CLIPS:
        samples = avsbench.find(task, raw / task, split)
        raw_examples = [
            source[i]
            for path in info.splits[split].filepaths
            for source in [tfrecord.TFRecordSource([path], schema.describe)]
            for i in range(len(source))
        ]
        for sample, example in zip(samples, raw_examples, strict=True):
            clip, found = avsbench.read(sample), info.features.deserialize_example_np(example)
            assert found["name"].decode() == sample.name and found["category"].decode() == sample.category
            assert found["subset"].decode() == sample.subset and found["schema_version"] == schema.SCHEMA_VERSION
            assert tuple(found["frames"]) == clip.frames == tuple(path.read_bytes() for path in sample.frames)
            assert tuple(found["frame_valid"]) == sample.frame_valid
            assert tuple(found["mask_valid"]) == sample.mask_valid
            np.testing.assert_array_equal(found["log_mel"], clip.log_mel)
            np.testing.assert_array_equal(found["audio"], clip.waveform)


@pytest.mark.parametrize("task", TABLES)
def test_the_loader_delivers_what_the_raw_files_hold(raw, whole, task):
    batches = loader.eval_batches(whole, "val", LoaderOptions(task, SIZE, 2))
    (batch,) = batches
    samples = avsbench.find(task, raw / task, "val")
    assert loader.clip_names(whole, "val", task) == [sample.name for sample in samples]
    for row, sample in enumerate(samples):
        masks = np.stack(avsbench.read(sample).masks)
        np.testing.assert_array_equal(batch["masks"][row, : len(masks)], masks)
        assert batch["mask_valid"][row].sum() == len(masks)
        assert batch["frame_valid"][row].tolist() == list(sample.frame_valid)
    if task == "s4":
        names = json.loads((records.set_folder(whole, "s4") / "metadata.json").read_text())["categories"]
        assert [names[number] for number in batch["category"]] == [sample.category for sample in samples]


def test_processes_and_runs_give_the_same_bytes(raw, whole, tmp_path):
    run(raw, tmp_path, processes=2, shards_per_split=2)
    mine = contents(tmp_path)
    expected = {name: data for name, data in contents(whole).items() if name.startswith("avsbench_s4")}
    assert mine.keys() == expected.keys()
    assert mine == expected


PARENT_OF_TWO = """
import fcntl, os, pathlib, sys, time
from data_pipeline import workers

def wait(folder):
    with open(pathlib.Path(folder) / f"{os.getpid()}.held", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        pathlib.Path(folder, f"{os.getpid()}.ready").touch()
        time.sleep(600)

if __name__ == "__main__":
    list(workers.run(wait, sys.argv[1:] * 2, processes=2))
"""


def test_workers_end_when_their_parent_is_killed(tmp_path):
    """Each of two workers holds a lock and waits; the parent is killed, and the locks come free."""
    (tmp_path / "parent.py").write_text(PARENT_OF_TWO)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    parent = subprocess.Popen([sys.executable, str(tmp_path / "parent.py"), str(tmp_path)], env=environment)
    while len(list(tmp_path.glob("*.ready"))) < 2:
        assert parent.poll() is None
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    for held in tmp_path.glob("*.held"):
        with open(held) as file:
            fcntl.flock(file, fcntl.LOCK_EX)


def test_the_report_counts_and_is_kept(raw, tmp_path):
    report = run(raw, tmp_path)
    folder = records.set_folder(tmp_path, "s4")
    stored = json.loads((folder / "report.json").read_text())
    assert stored["splits"] == report.splits
    size = sum(path.stat().st_size for path in folder.glob("*-train.tfrecord-?????-of-?????"))
    assert report.splits["train"] == {"clips": 5, "frames": 25, "masks": 5, "bytes": size}
    assert report.splits["val"]["masks"] == 10 and report.shards_written == 3 and not report.problems
    assert f"train          5       25        5{size / 1e6:>10.1f}" in str(report)


def test_a_finished_set_is_left_alone(raw, tmp_path):
    run(raw, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != ".lock"}
    again = run(raw, tmp_path)
    assert (again.shards_written, again.shards_kept) == (0, 3)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != ".lock"} == before


def test_a_set_cut_short_does_not_look_whole_and_is_completed(raw, whole, tmp_path, monkeypatch):
    written = []

    def fail_at_third(shard):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(shard.path)
        write(shard)

    write = convert.shards.write
    monkeypatch.setattr(convert.shards, "write", fail_at_third)
    with pytest.raises(KeyboardInterrupt):
        run(raw, tmp_path, shards_per_split=2)
    monkeypatch.undo()
    with pytest.raises(tfrecord.RecordError, match="the conversion there has not finished: run the same command again"):
        loader.num_clips(tmp_path, "train")
    kept = {path: path.stat().st_mtime_ns for path in written}
    report = run(raw, tmp_path, shards_per_split=2)
    assert (report.shards_written, report.shards_kept) == (4, 2)
    assert {path: path.stat().st_mtime_ns for path in written} == kept
    assert contents(tmp_path).items() <= contents(whole).items()


def test_a_conversion_that_was_killed_is_completed(raw, whole, tmp_path):
    command = [sys.executable, "-m", "data_pipeline.convert", "--dataset", "s4", "--source", str(raw / "s4")]
    command += ["--out", str(tmp_path), "--processes", "1", "--shards", "2"]
    process = subprocess.Popen(command, cwd=REPOSITORY)
    while process.poll() is None and not any(tmp_path.rglob("*.index")):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left_behind = records.set_folder(tmp_path, "s4") / ".half.tmp"
    left_behind.write_bytes(b"of an interrupted write")
    run(raw, tmp_path, shards_per_split=2)
    assert not left_behind.exists()
    assert contents(tmp_path).items() <= contents(whole).items()
    assert loader.num_clips(tmp_path, "train") == 5


@pytest.mark.parametrize("damage", ["shard shorter", "index missing", "index damaged"])
def test_only_what_is_damaged_is_written_again(raw, whole, tmp_path, damage):
    run(raw, tmp_path, shards_per_split=2)
    shard = min(tmp_path.rglob("*-val.tfrecord-?????-of-?????"))
    match damage:
        case "shard shorter":
            os.truncate(shard, shard.stat().st_size - 1)
        case "index missing":
            tfrecord.index_path(shard).unlink()
        case "index damaged":
            tfrecord.index_path(shard).write_text("{}")
    report = run(raw, tmp_path, shards_per_split=2)
    assert (report.shards_written, report.shards_kept) == (1, 5)
    assert contents(tmp_path).items() <= contents(whole).items()


def test_changed_raw_files_are_converted_again_after_an_interruption(raw, tmp_path):
    source = tmp_path / "raw"
    shutil.copytree(raw / "s4", source / "s4")
    run(source, tmp_path / "out")
    (records.set_folder(tmp_path / "out", "s4") / records.INFO_FILE).unlink()
    sample = avsbench.find("s4", source / "s4", "val")[1]
    shutil.copy(sample.frames[0], sample.frames[1])
    report = run(source, tmp_path / "out")
    assert (report.shards_written, report.shards_kept) == (1, 2)


def test_another_complete_set_is_never_overwritten(raw, tmp_path):
    run(raw, tmp_path)
    before = contents(tmp_path)
    with pytest.raises(convert.ConvertError, match=r"holds a complete set made from other data.*left as it is"):
        run(raw, tmp_path, shards_per_split=2)
    assert contents(tmp_path) == before


def test_shards_of_another_plan_are_removed(raw, whole, tmp_path):
    run(raw, tmp_path)
    (records.set_folder(tmp_path, "s4") / records.INFO_FILE).unlink()
    run(raw, tmp_path, shards_per_split=2)
    assert contents(tmp_path).items() <= contents(whole).items()


def test_damaged_clips_are_all_listed_before_any_work(raw, tmp_path):
    source = tmp_path / "raw"
    shutil.copytree(raw / "s4", source / "s4")
    samples = avsbench.find("s4", source / "s4")
    samples[0].masks[0].unlink()
    samples[4].frames[2].write_bytes(samples[4].frames[2].read_bytes()[:200])
    with pytest.raises(avsbench.DataError) as error:
        run(source, tmp_path / "out")
    assert len(error.value.problems) == 2
    for name in (samples[0].masks[0].name, samples[4].frames[2].name):
        assert name in str(error.value)
    assert not (tmp_path / "out").exists()

    report = run(source, tmp_path / "out", skip_damaged=True)
    assert report.splits["train"]["clips"] == 3 and len(report.problems) == 2
    stored = json.loads((Path(report.folder) / "report.json").read_text())
    assert stored["problems"] == report.problems and samples[0].name in report.problems[0]
    assert loader.clip_names(tmp_path / "out", "train") == [samples[i].name for i in (1, 2, 3)]


def test_a_set_of_damaged_clips_only_is_refused_even_with_skip(raw, tmp_path):
    source = tmp_path / "raw"
    shutil.copytree(raw / "ms3", source / "ms3")
    shutil.rmtree(source / "ms3" / "ms3_data" / "gt_masks")
    with pytest.raises(avsbench.DataError, match="45 problems"):
        run(source, tmp_path / "out", "ms3", skip_damaged=True)


def test_a_full_disk_is_one_clear_error_and_loses_nothing(raw, whole, tmp_path):
    """The limit on the size of a file makes the kernel refuse in the middle of a write, as a full disk does."""
    largest = records.set_folder(whole, "s4") / "avsbench_s4-train.tfrecord-00001-of-00002"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest.stat().st_size + 1000, hard))
    try:
        with pytest.raises(convert.ConvertError) as error:
            run(raw, tmp_path, shards_per_split=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    folder = records.set_folder(tmp_path, "s4")
    assert str(error.value) == (
        f"cannot write to {folder}: File too large; free some space or choose another --out. "
        "0 of 6 shards are complete and kept: the same command goes on from there"
    )
    assert [path.name for path in folder.iterdir()] == [".lock"]
    assert run(raw, tmp_path, shards_per_split=2).shards_written == 6


def test_shards_from_before_the_disk_was_full_are_kept(raw, tmp_path, monkeypatch):
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 4:  # a shard and its index take one each
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(convert.ConvertError, match=r"No space left on device; free some space.*2 of 6 shards are"):
        run(raw, tmp_path, shards_per_split=2)
    monkeypatch.undo()
    assert not list(tmp_path.rglob(".*.tmp"))
    assert run(raw, tmp_path, shards_per_split=2).shards_kept == 2


def test_a_folder_that_cannot_be_written_is_one_clear_error(raw, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(convert.ConvertError, match=r"cannot write to .*: Not a directory; check its permissions or"):
        run(raw, tmp_path / "file")

    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(convert.ConvertError, match=r"cannot write to .*: Read-only file system; check its permissions"):
        run(raw, tmp_path / "out")


def test_two_conversions_do_not_write_to_one_folder(raw, tmp_path):
    with convert._alone(records.set_folder(tmp_path, "s4")):
        with pytest.raises(convert.ConvertError, match="another conversion is writing to"):
            run(raw, tmp_path)


def test_shards_are_shared_out_by_size_and_number(raw):
    samples = avsbench.find("s4", raw / "s4", "train") * 200  # a thousand clips

    def lengths(size, **settings):
        sources = [convert.shards.Source(size, str(i)) for i in range(len(samples))]
        return [len(shard.samples) for shard in convert.shards.plan("s4", Path("x"), samples, sources, **settings)]

    assert lengths(1000) == [250] * 4
    assert lengths(1 << 20) == [125] * 8
    assert lengths(1000, per_split=3) == [334, 333, 333]


def test_synthetic_data_are_made_converted_and_then_left_alone(tmp_path, capsys):
    command = ["--dataset", "synthetic", "--task", "ms3", "--clips", "2,1,1", "--size", "32x48", "--out", str(tmp_path)]
    assert convert.main([*command, "--processes", "1"]) == 0
    assert "train          2" in capsys.readouterr().out
    batch = next(iter(loader.eval_batches(tmp_path, "test", LoaderOptions("ms3", (32, 48), 1))))
    assert batch["frames"].shape == (1, 5, 32, 48, 3)
    assert convert.main(command) == 0
    assert "already holds this synthetic set" in capsys.readouterr().out
    assert convert.main([*command, "--seed", "1"]) == 1
    assert "error: " in (text := capsys.readouterr().err) and "made from other data or settings" in text


def test_a_raw_folder_that_holds_another_set_is_not_touched(raw, tmp_path):
    with pytest.raises(convert.ConvertError, match="already holds another s4 set"):
        convert.synthetic("s4", tmp_path, clips={"train": 1}, size=SIZE, source=raw / "s4", progress=False)


def test_the_command_line_says_what_is_wrong(raw, tmp_path, capsys):
    assert convert.main(["--dataset", "s4", "--source", str(tmp_path / "none"), "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: 1 problem in the raw data:")
    for arguments in (["--dataset", "s4"], ["--dataset", "synthetic", "--clips", "1,2"]):
        with pytest.raises(SystemExit):
            convert.main([*arguments, "--out", str(tmp_path)])
        assert "error:" in capsys.readouterr().err
