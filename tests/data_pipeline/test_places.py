"""Paths to object stores: a bucket that is a folder of this machine stands in for a real one."""

import pytest

from data_pipeline import avsbench, convert, places, records, synthetic, tfrecord


def test_local_paths_stay_what_they_are(tmp_path):
    assert places.at(tmp_path) == tmp_path and type(places.at("a/b")) is type(tmp_path)
    assert not places.is_remote(tmp_path) and places.is_remote("s3://bucket/file")
    with pytest.raises(ValueError, match=r"ftp://host/a: a path, or an address that begins with gs://, s3://"):
        places.at("ftp://host/a")


def test_raw_data_are_read_from_a_bucket(bucket, tmp_path):
    """Checked and converted from there, a set is the same as from the disk."""
    address, folder = bucket
    for task in ("s4", "avss"):
        synthetic.write(task, folder / task, {"train": 1, "val": 1, "test": 1}, (32, 32), processes=1)
        found = {}
        for name, source in (("disk", folder / task), ("bucket", f"{address}/{task}")):
            convert.convert(task, source, tmp_path / name, processes=1, progress=False)
            source = records.open_set(tmp_path / name, task).source("train")
            found[name] = [source[i] for i in range(len(source))]
        assert found["bucket"] == found["disk"]


def test_what_is_damaged_in_a_bucket_is_named_by_its_address(bucket):
    address, folder = bucket
    synthetic.write("s4", folder / "s4", {"train": 1, "val": 0, "test": 0}, (32, 32), processes=1)
    (sample,) = avsbench.find("s4", f"{address}/s4")
    places.at(sample.wav).write_bytes(b"no sound")
    places.at(sample.frames[1]).unlink()
    problems = avsbench.check([sample])
    assert [str(problem.file) for problem in problems] == [str(sample.frames[1]), str(sample.wav)]
    assert str(sample.wav).startswith("gs://bucket/s4/s4_data/audio_wav/")
    assert problems[0].what == "the file is missing" and "is no readable audio" in problems[1].what


def test_shards_are_written_to_a_bucket_with_their_index(bucket):
    path = places.at(f"{bucket[0]}/set/x.tfrecord-00000-of-00001")
    tfrecord.write_shard(path, [b"one", b"three"], lambda raw: {"size": len(raw)}, "made of this")
    index = tfrecord.read_index(path)
    assert index.notes == ({"size": 3}, {"size": 5}) and index.fingerprint == "made of this"
    assert places.size(path) == index.size == (bucket[1] / "set/x.tfrecord-00000-of-00001").stat().st_size


def test_the_local_runner_does_not_write_to_a_bucket(bucket):
    with pytest.raises(
        convert.ConvertError, match=r"gs://bucket/out is not a folder of this machine: .* --runner beam"
    ):
        convert.convert("s4", "anywhere", f"{bucket[0]}/out")


def test_synthetic_is_not_for_beam(capsys):
    with pytest.raises(SystemExit):
        convert.main(["--dataset", "synthetic", "--out", "x", "--runner", "beam"])
    assert "--runner beam converts raw data" in capsys.readouterr().err
