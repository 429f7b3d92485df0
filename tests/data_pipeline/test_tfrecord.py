"""The TFRecord format against its specification, the index, and what damage does."""

import os
import pickle
import struct

import numpy as np
import pytest

from data_pipeline import tfrecord

PAYLOADS = [b"first", b"", bytes(range(256)) * 40, b"last one"]


def describe(payload):
    return {"bytes": len(payload)}


def crc32c(data):
    """CRC-32C bit by bit (RFC 3720, appendix B.4): the independent truth."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def mask(crc):
    return ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) % 2**32


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "x.tfrecord-00000-of-00001"
    tfrecord.write_shard(path, PAYLOADS, describe, "made from x")
    return path


def source(*shards):
    return tfrecord.TFRecordSource(shards, describe)


def flip_byte(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


def test_the_bytes_follow_the_specification(shard):
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720
    expected = b""
    for payload in PAYLOADS:
        length = struct.pack("<Q", len(payload))
        expected += length + struct.pack("<I", mask(crc32c(length)))
        expected += payload + struct.pack("<I", mask(crc32c(payload)))
    assert shard.read_bytes() == expected


def test_records_are_read_in_any_order_and_described(shard):
    records = source(shard)
    assert [records[i] for i in (3, 0, 2, 1)] == [PAYLOADS[i] for i in (3, 0, 2, 1)]
    assert [note["bytes"] for note in records.notes] == [len(payload) for payload in PAYLOADS]
    with pytest.raises(IndexError, match="record 4 of 4"):
        records[4]


def test_several_shards_are_one_sequence(shard, tmp_path):
    second = tmp_path / "second"
    tfrecord.write_shard(second, [b"a", b"b"], describe)
    records = source(shard, second)
    assert len(records) == 6
    assert (records[3], records[4], records[5]) == (b"last one", b"a", b"b")
    assert records.where(5) == f"{second}, record 1"


def test_a_source_survives_pickling_after_use(shard):
    records = source(shard)
    records[0]
    assert pickle.loads(pickle.dumps(records))[2] == PAYLOADS[2]


@pytest.mark.parametrize("damage", ["missing", "garbage", "one flipped byte", "shard grew"])
def test_an_index_that_cannot_be_trusted_is_rebuilt(shard, damage):
    index = tfrecord.index_path(shard)
    match damage:
        case "missing":
            index.unlink()
        case "garbage":
            index.write_bytes(b"\xff\xfe")
        case "one flipped byte":
            flip_byte(index, 20)
        case "shard grew":
            with open(shard, "ab") as file:
                file.write(tfrecord.frame(b"more"))
    records = source(shard)
    expected = [*PAYLOADS, b"more"] if damage == "shard grew" else PAYLOADS
    assert [records[i] for i in range(len(records))] == expected
    stored = tfrecord.read_index(shard)
    assert len(stored) == len(expected) and stored.fingerprint == ""


def test_an_index_that_cannot_be_stored_lives_in_memory(shard, monkeypatch):
    tfrecord.index_path(shard).unlink()

    def read_only(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "replace", read_only)
    assert source(shard)[0] == b"first"
    assert sorted(path.name for path in shard.parent.iterdir()) == [shard.name]


def test_every_flipped_byte_is_found_and_named(shard):
    """Each byte of the second-largest record in turn: length, its checksum, payload, checksum."""
    good, records = shard.read_bytes(), source(shard)
    start = tfrecord.read_index(shard).offsets[3]
    for offset in range(start, len(good)):
        flip_byte(shard, offset)
        with pytest.raises(tfrecord.RecordError, match=f"record 3, byte offset {start}: the (length|checksum)"):
            records[3]
        assert records[2] == PAYLOADS[2]
        shard.write_bytes(good)
    assert records[3] == PAYLOADS[3]


@pytest.mark.parametrize("offset", [0, 9, 14, 18])
def test_a_flipped_byte_is_found_while_the_index_is_rebuilt(shard, offset):
    tfrecord.index_path(shard).unlink()
    flip_byte(shard, offset)
    with pytest.raises(tfrecord.RecordError, match=r"record 0, byte offset 0.*convert the data set again"):
        source(shard)


@pytest.mark.parametrize("keep", [-1, -9, -20])
def test_a_file_that_ends_too_early_is_named(shard, keep):
    data = shard.read_bytes()
    records = source(shard)
    shard.write_bytes(data[:keep])
    with pytest.raises(tfrecord.RecordError, match="the file ends inside this record"):
        records[3]
    with pytest.raises(tfrecord.RecordError, match="the file ends inside this record"):
        source(shard)


def test_a_missing_shard_is_named(tmp_path):
    with pytest.raises(tfrecord.RecordError, match=r"nowhere is missing; convert the data set again"):
        source(tmp_path / "nowhere")


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "shard"
    tfrecord.write_shard(path, [b"old"], describe)

    def broken():
        yield b"new"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        tfrecord.write_shard(path, broken(), describe)
    assert [p.name for p in tmp_path.iterdir()] == ["shard"]
    assert source(path)[0] == b"old"


def test_random_payloads_round_trip(tmp_path):
    rng = np.random.default_rng(0)
    payloads = [rng.bytes(int(n)) for n in rng.integers(0, 5000, 200)]
    index = tfrecord.write_shard(tmp_path / "s", payloads, describe, "f")
    assert tfrecord.read_index(tmp_path / "s") == index
    records = source(tmp_path / "s")
    assert [records[i] for i in range(200)] == payloads
