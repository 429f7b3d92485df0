"""Converted sets on the disk: found, told apart, and refused where they are damaged or of another version."""

import json

import pytest

from data_pipeline import loader, records, schema, tfrecord
from tests.data_pipeline.known_records import make_record, options, write_set


def flip_byte(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_flipped_byte_stops_the_run_with_its_place(tmp_path, workers):
    write_set(tmp_path, "s4", {"train": 4})
    shard = sorted(tmp_path.rglob("*.tfrecord-00001-of-00002"))[0]
    flip_byte(shard, 5000)
    batches = loader.train_batches(tmp_path, "train", options(workers=workers))
    with pytest.raises(tfrecord.RecordError, match=rf"{shard}, record 0, byte offset 0: the checksum"):
        next(batches)
    batches.close()


def test_records_of_another_schema_version_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(schema, "SCHEMA_VERSION", 2)
    monkeypatch.setattr(schema, "TFDS_VERSION", "2.0.0")
    write_set(tmp_path, "s4", {"train": 2})
    monkeypatch.undo()
    for place in (tmp_path, tmp_path / "avsbench_s4" / "2.0.0"):
        with pytest.raises(
            tfrecord.RecordError, match=r"version 2(.0.0)? of the record schema, this code reads version 1"
        ):
            loader.train_batches(place, "train", options())


def test_a_single_record_of_another_schema_version_is_refused(tmp_path, monkeypatch):
    write_set(tmp_path, "s4", {"val": 2})
    monkeypatch.setattr(schema, "SCHEMA_VERSION", 2)
    newer = schema.encode(make_record("s4", "val", 0))
    monkeypatch.undo()
    shard = sorted(tmp_path.rglob("*.tfrecord-00000-of-00002"))[0]
    tfrecord.write_shard(shard, [newer], lambda _: {"name": "x", "category": "", "classes": []})
    with pytest.raises(tfrecord.RecordError, match=rf"{shard}, record 0: this record was made by version 2"):
        next(iter(loader.eval_batches(tmp_path, "val", options())))


def test_sets_are_found_from_any_of_their_folders(s4, tmp_path):
    folder = records.set_folder(s4, "s4")
    assert {loader.num_clips(place, "val") for place in (s4, folder.parent, folder)} == {7}
    with pytest.raises(tfrecord.RecordError, match=r"no split 'dev'; it has train, val"):
        loader.num_clips(s4, "dev")
    with pytest.raises(tfrecord.RecordError, match="holds no converted set; make one: python -m data_pipeline"):
        loader.num_clips(tmp_path, "val")
    with pytest.raises(tfrecord.RecordError, match=r"no converted set of task 'ms3'"):
        loader.eval_batches(s4, "val", options("ms3"))
    with pytest.raises(tfrecord.RecordError, match=r"holds records of task 's4', not of 'ms3'"):
        loader.eval_batches(folder, "val", options("ms3"))


def test_sets_in_a_bucket_are_to_be_copied_first():
    with pytest.raises(tfrecord.RecordError, match=r"^gs://bucket/records: .*copy them to a folder$"):
        loader.num_clips("gs://bucket/records", "val")


def test_several_sets_side_by_side_are_told_apart_by_task(tmp_path):
    for task in ("s4", "ms3"):
        write_set(tmp_path, task, {"val": 2})
    with pytest.raises(tfrecord.RecordError, match=r"holds several sets: name one of .*ms3.*s4"):
        loader.num_clips(tmp_path, "val")
    assert len(loader.eval_batches(tmp_path, "val", options("ms3"))) == 1


@pytest.mark.parametrize("damage", ["unfinished", "shard missing", "metadata damaged", "no version", "shard replaced"])
def test_sets_that_are_not_whole_are_refused(tmp_path, damage):
    write_set(tmp_path, "s4", {"val": 4})
    folder = records.set_folder(tmp_path, "s4")
    shard = sorted(folder.glob("*-00000-of-00002"))[0]
    match damage:
        case "unfinished":
            (folder / records.INFO_FILE).unlink()
            expected = "the conversion there has not finished: run the same command again"
        case "shard missing":
            shard.unlink()
            expected = f"{shard} is missing; convert the data set again"
        case "metadata damaged":
            (folder / records.INFO_FILE).write_text("{")
            expected = "was not written by data_pipeline.convert, or is damaged"
        case "no version":
            metadata = json.loads((folder / "metadata.json").read_text())
            del metadata["schema_version"]
            (folder / "metadata.json").write_text(json.dumps(metadata))
            expected = "was not written by data_pipeline.convert, or is damaged"
        case "shard replaced":
            tfrecord.write_shard(shard, [schema.encode(make_record("s4", "val", 0))], schema.describe)
            expected = "the shards of 'val' hold 3 clips, dataset_info.json says 4"
    with pytest.raises(tfrecord.RecordError, match=expected):
        loader.eval_batches(tmp_path, "val", options())
