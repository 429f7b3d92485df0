"""Conversions that are interrupted, run out of disk or meet another one: what was done is kept, and completed."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_pipeline import avsbench, convert, loader, records, tfrecord
from tests.data_pipeline.conversions import contents, run

REPOSITORY = Path(__file__).parents[2]


def test_processes_and_runs_give_the_same_bytes(raw, whole, tmp_path):
    run(raw, tmp_path, processes=2, shards_per_split=2)
    mine = contents(tmp_path)
    expected = {name: data for name, data in contents(whole).items() if name.startswith("avsbench_s4")}
    assert mine.keys() == expected.keys()
    assert mine == expected


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


def test_shards_of_another_plan_are_removed(raw, whole, tmp_path):
    run(raw, tmp_path)
    (records.set_folder(tmp_path, "s4") / records.INFO_FILE).unlink()
    run(raw, tmp_path, shards_per_split=2)
    assert contents(tmp_path).items() <= contents(whole).items()


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
