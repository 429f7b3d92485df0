"""TFRecord files without TensorFlow: writing, an index for random access, a checksum on every read.

A TFRecord file is a plain sequence of records, each

    uint64 length | uint32 masked CRC32C of the length | payload | uint32 masked CRC32C of the payload

(little endian; https://www.tensorflow.org/tutorials/load_data/tfrecord). Beside each shard lies its index,
`<shard>.index`: where every record starts and what it holds, one JSON line followed by the line's own CRC32C.
"""

from __future__ import annotations

import dataclasses
import json
import os
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np

from data_pipeline import places

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
OVERHEAD = _HEADER.size + _FOOTER.size
_MEND = "convert the data set again (python -m data_pipeline.convert) or restore the file from a copy"

Describe = Callable[[bytes], dict]


class RecordError(ValueError):
    """Records that are damaged, missing or not what the reader expects. The message names the file and the mend."""


def masked_crc(data: bytes) -> int:
    """CRC32C, rotated and offset as the TFRecord format asks, so that data holding CRCs keep a good checksum."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def frame(payload: bytes) -> bytes:
    """The bytes of one record as they stand in a file."""
    length = struct.pack("<Q", len(payload))
    return length + _FOOTER.pack(masked_crc(length)) + payload + _FOOTER.pack(masked_crc(payload))


@dataclasses.dataclass(frozen=True)
class Index:
    """Where the records of one shard are, and what is worth knowing of each without reading it.

    Attributes:
      size: bytes of the shard that this index describes.
      offsets: start of each record in the shard, in bytes.
      lengths: bytes of each record's payload.
      notes: what `describe(payload)` says of each record (JSON values).
      fingerprint: of what the shard was made from; empty where the index was rebuilt from the shard.
    """

    size: int
    offsets: tuple[int, ...]
    lengths: tuple[int, ...]
    notes: tuple[dict, ...]
    fingerprint: str = ""

    def __len__(self) -> int:
        return len(self.offsets)

    def dumps(self) -> str:
        body = json.dumps(dataclasses.asdict(self), separators=(",", ":"))
        return f"{body}\n{google_crc32c.value(body.encode()):08x}\n"

    @classmethod
    def loads(cls, text: str) -> Index | None:
        """The index that `dumps` wrote, or None where the text is not whole."""
        body, _, crc = text.partition("\n")
        if crc.strip() != f"{google_crc32c.value(body.encode()):08x}":
            return None
        fields = json.loads(body)
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})


def index_path(shard: Path) -> Path:
    return shard.with_name(shard.name + ".index")


def write_atomically(path: Path, chunks: Iterable[bytes]) -> None:
    """Writes a file that appears under its name only when it is whole and on the disk.

    Raises:
      OSError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    if places.is_remote(path):  # a store shows a file when it is closed
        with path.open("wb") as file:
            file.writelines(chunks)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_shard(path: Path, payloads: Iterable[bytes], describe: Describe, fingerprint: str = "") -> Index:
    """Writes a shard, then its index, each in one step; a shard with an index is therefore whole."""
    lengths, notes = [], []

    def frames() -> Iterator[bytes]:
        for payload in payloads:
            lengths.append(len(payload))
            notes.append(describe(payload))
            yield frame(payload)

    index_path(path).unlink(missing_ok=True)  # it would describe the shard that is about to go
    write_atomically(path, frames())
    starts = np.cumsum([0, *(n + OVERHEAD for n in lengths)]).tolist()
    index = Index(starts[-1], tuple(starts[:-1]), tuple(lengths), tuple(notes), fingerprint)
    write_atomically(index_path(path), [index.dumps().encode()])
    return index


def read_index(shard: Path) -> Index | None:
    """The stored index, or None where there is none, it is damaged, or the shard's size has changed since."""
    try:
        index = Index.loads(index_path(shard).read_text())
        size = places.size(shard)
    except (OSError, UnicodeDecodeError):
        return None
    return index if index is not None and index.size == size else None


def build_index(shard: Path, describe: Describe) -> Index:
    """Reads the whole shard, every checksum included, and says where its records are."""
    offsets, lengths, notes = [], [], []
    size = shard.stat().st_size
    with open(shard, "rb") as file:
        start = 0
        while start < size:
            where = f"{shard}, record {len(offsets)}"
            payload = read_record(file, start, read_length(file, start, where), where)
            offsets.append(start)
            lengths.append(len(payload))
            notes.append(describe(payload))
            start += len(payload) + OVERHEAD
    return Index(size, tuple(offsets), tuple(lengths), tuple(notes))


def load_index(shard: Path, describe: Describe) -> Index:
    """The shard's index; rebuilt, and stored where the folder can be written, if missing or stale."""
    if not shard.is_file():
        raise RecordError(f"{shard} is missing; {_MEND}")
    index = read_index(shard)
    if index is None:
        index = build_index(shard, describe)
        try:
            write_atomically(index_path(shard), [index.dumps().encode()])
        except OSError:  # read-only media: the index then lives in memory only
            return index
    return index


def read_length(file: BinaryIO, offset: int, where: str) -> int:
    """The payload's length that the record at `offset` states, its checksum verified."""
    data = os.pread(file.fileno(), _HEADER.size, offset)
    if len(data) < _HEADER.size:
        raise RecordError(f"{where}, byte offset {offset}: the file ends inside this record; {_MEND}")
    length, crc = _HEADER.unpack(data)
    if masked_crc(data[:8]) != crc:
        raise RecordError(f"{where}, byte offset {offset}: the length of this record is damaged; {_MEND}")
    return length


def read_record(file: BinaryIO, offset: int, length: int, where: str) -> bytes:
    """Reads one record by position (thread-safe; one system call) and verifies both of its checksums.

    Args:
      file: the shard; the position of the file object is not used.
      offset: start of the record, in bytes.
      length: bytes of the payload.
      where: file and record number, for messages.

    Raises:
      RecordError: a byte differs from what was written, or the file ends too early.
    """
    where = f"{where}, byte offset {offset}"
    data = os.pread(file.fileno(), length + OVERHEAD, offset)
    if len(data) < length + OVERHEAD:
        raise RecordError(f"{where}: the file ends inside this record; {_MEND}")
    stored, length_crc = _HEADER.unpack_from(data)
    if masked_crc(data[:8]) != length_crc or stored != length:
        raise RecordError(f"{where}: the length of this record is damaged; {_MEND}")
    payload = data[_HEADER.size : -_FOOTER.size]
    if _FOOTER.unpack_from(data, _HEADER.size + length)[0] != masked_crc(payload):
        raise RecordError(f"{where}: the checksum of this record does not match its {length} bytes; {_MEND}")
    return payload


class TFRecordSource:
    """Random access to the records of several shards, as Grain's RandomAccessDataSource asks.

    Opens each shard when it is first read; may be pickled, copied to worker processes and shared by threads.

    Attributes:
      notes: what `describe` said of each record, in order.
    """

    def __init__(self, shards: Sequence[str | os.PathLike], describe: Describe):
        self._shards = [Path(shard) for shard in shards]
        indices = [load_index(shard, describe) for shard in self._shards]
        self._offsets = [np.asarray(index.offsets, np.int64) for index in indices]
        self._lengths = [np.asarray(index.lengths, np.int64) for index in indices]
        self._starts = np.cumsum([0, *map(len, indices)])
        self.notes = [note for index in indices for note in index.notes]
        self._open_files()

    def _open_files(self) -> None:
        self._files: dict[int, BinaryIO] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k not in ("_files", "_lock")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._open_files()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __repr__(self) -> str:  # Grain prints its sources
        return f"TFRecordSource({len(self)} records in {len(self._shards)} shards)"

    def __getitem__(self, index: int) -> bytes:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        shard, number = self._place(index)
        offset, length = int(self._offsets[shard][number]), int(self._lengths[shard][number])
        return read_record(self._file(shard), offset, length, self.where(index))

    def where(self, index: int) -> str:
        """Names a record as people find it: its file and its number there."""
        shard, number = self._place(index)
        return f"{self._shards[shard]}, record {number}"

    def _place(self, index: int) -> tuple[int, int]:
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        return shard, int(index - self._starts[shard])

    def _file(self, shard: int) -> BinaryIO:
        with self._lock:
            if shard not in self._files:
                self._files[shard] = open(self._shards[shard], "rb", buffering=0)
            return self._files[shard]
