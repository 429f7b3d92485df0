"""Conversion of small synthetic sets: what is written, and what is refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipeline import avsbench, convert, loader, records, schema, shards, tfrecord
from data_pipeline.loader import LoaderOptions
from tests.data_pipeline.conversions import CLIPS, SIZE, contents, run


@pytest.mark.parametrize("task", avsbench.TASKS)
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


@pytest.mark.parametrize("task", avsbench.TASKS)
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


def test_another_complete_set_is_never_overwritten(raw, tmp_path):
    run(raw, tmp_path)
    before = contents(tmp_path)
    with pytest.raises(convert.ConvertError, match=r"holds a complete set made from other data.*left as it is"):
        run(raw, tmp_path, shards_per_split=2)
    assert contents(tmp_path) == before


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


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--clips", "1,2,many", "give 3 whole numbers of at least 0, not '1,2,many'"),
        ("--clips", "1,-2,3", "give 3 whole numbers of at least 0, not '1,-2,3'"),
        ("--size", "64", "give 2 whole numbers of at least 0, not '64'"),
        ("--shards", "0", "give a whole number of at least 1, not '0'"),
        ("--shards", "-1", "give a whole number of at least 1, not '-1'"),
    ],
)
def test_flags_that_make_no_sense_are_named(tmp_path, capsys, flag, value, message):
    with pytest.raises(SystemExit):
        convert.main(["--dataset", "synthetic", "--out", str(tmp_path), f"{flag}={value}"])
    assert f"argument {flag}: {message}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "message"),
    [("--size=8x64", "at least 16 pixels each"), ("--seed=-1", "seed is -1"), ("--clips=0,0,0", "not all of them 0")],
)
def test_synthetic_sets_that_cannot_be_made_are_refused(tmp_path, capsys, flag, message):
    assert convert.main(["--dataset", "synthetic", "--out", str(tmp_path), "--processes=1", flag]) == 1
    assert (text := capsys.readouterr().err).startswith("error: ") and message in text
    assert not list(tmp_path.iterdir())


def test_a_clips_digest_covers_what_the_table_says_of_it(raw):
    """All of it stands in the record, so a shard whose clips the table describes otherwise is made again."""
    (sample,) = avsbench.find("avss", raw / "avss", "val")[:1]
    others = [dataclasses.replace(sample, **{name: "x"}) for name in ("name", "split", "category", "subset")]
    others.append(dataclasses.replace(sample, num_frames=sample.num_frames + 1))
    digests = [shards.inspect(each)[1].digest for each in (sample, sample, *others)]
    assert digests[0] == digests[1] and len(set(digests)) == 1 + len(others)
