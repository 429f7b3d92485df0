"""PyTorch's files without PyTorch: `.pth`, `.pt`, `.pkl`, read and written as nested containers of numpy arrays.

Three forms are read: torch.save's zip archives (since 1.6), its older stream of pickles and raw storages, and plain
pickles, of tensors (as AVSBench's log-mels are) or of numpy arrays (as Detectron2's weights are). No code that a file
names is run: see `torch_pickle`.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable
from typing import Any, BinaryIO

import numpy as np

from data_pipeline.problems import BadFile
from data_pipeline.torch_pickle import MAGIC, STREAM_VERSION, ClosedUnpickler, RefusedPickle
from data_pipeline.torch_writer import save, save_pickled_tensor

__all__ = ["RefusedPickle", "load", "save", "save_pickled_tensor"]


def load(path: str | os.PathLike) -> Any:
    """What a PyTorch or pickle file holds: dicts, lists, tuples, strings, numbers, and numpy arrays for tensors.

    Tensors that share a storage share memory. Those of a zip archive are views of the mapped file, read-only, which
    take memory only as they are used. bfloat16 tensors have ml_dtypes' type of that name.

    Raises: RefusedPickle where the file asks for a global that tensors do not need, BadFile where it is missing,
    damaged, or in a form that is not read.
    """
    try:
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise BadFile(path, "the file is empty", "download or write it anew")
            content = np.asarray(np.memmap(path, np.uint8, "r"))
            return _read(file, content, os.fspath(path))
    except FileNotFoundError:
        raise BadFile(path, "the file is missing", "check the path, or restore the file") from None
    except OSError as error:
        raise BadFile(path, f"cannot be read ({error.strerror})", "check the path and its permissions") from error


def _read(file: BinaryIO, content: np.ndarray, path: str) -> Any:
    """Reads any of the forms from a file opened at its start, whose bytes are also at hand as an array."""
    if content[:4].tobytes() == b"PK\x03\x04":
        return _read_zip(file, content, path)
    if content[257:262].tobytes() == b"ustar":
        raise BadFile(path, "is a tar archive, as PyTorch before 0.1.10 wrote", "save it anew with a later PyTorch")
    return _read_stream(file, content, path)


def _read_bytes(content: bytes, path: str) -> Any:
    return _read(io.BytesIO(content), np.frombuffer(content, np.uint8), path)


def _damaged(path: str, what: str) -> BadFile:
    return BadFile(path, f"is damaged: {what}", "download or write the file anew")


def _read_stream(file: BinaryIO, content: np.ndarray, path: str) -> Any:
    """Reads a plain pickle, or the older form: magic number, version, system, object, storages' keys, storages."""
    storages: dict[str, np.ndarray] = {}

    def storage(key: str, dtype: np.dtype, count: int) -> np.ndarray:
        if key not in storages:
            if count * dtype.itemsize > len(content):
                raise _damaged(path, f"a storage of {count} {dtype} elements is larger than the file")
            storages[key] = np.zeros(count, dtype)  # filled below: the data come after the pickles
        return storages[key].view(dtype)

    def load_pickle() -> Any:
        nested = functools.partial(_read_bytes, path=path)
        return ClosedUnpickler(file, path, storage, nested).load()

    first = load_pickle()
    if not (isinstance(first, int) and first == MAGIC):
        return first
    version, system, found, keys = (load_pickle() for _ in range(4))
    if version != STREAM_VERSION or not isinstance(system, dict) or not system.get("little_endian"):
        raise BadFile(path, f"has version {version} or big-endian numbers", "save it anew with a current PyTorch")
    if not isinstance(keys, list) or set(map(str, keys)) != set(storages):
        raise _damaged(path, "its list of storages does not match its tensors")
    _fill((storages[str(key)] for key in keys), content, file.tell(), path)
    return found


def _fill(storages: Iterable[np.ndarray], content: np.ndarray, position: int, path: str) -> None:
    """Copies the storages' data, each after its number of elements, from the file's bytes at `position`."""
    for storage in storages:
        start, end = position + 8, position + 8 + storage.nbytes
        if content[position:start].tobytes() != struct.pack("<q", storage.size) or end > len(content):
            raise _damaged(path, "a storage is cut short or has another size than its tensors")
        storage.view(np.uint8)[:] = content[start:end]
        position = end


def _read_zip(file: BinaryIO, content: np.ndarray, path: str) -> Any:
    """Reads a zip archive: a pickle, and for each storage an entry with its raw data."""
    archive = _Archive.open(file, content, path)
    if archive.has("byteorder") and archive.read("byteorder").tobytes() != b"little":
        raise BadFile(path, "holds big-endian numbers", "save it anew on a little-endian machine")
    storages: dict[str, np.ndarray] = {}

    def storage(key: str, dtype: np.dtype, count: int) -> np.ndarray:
        if key not in storages:
            storages[key] = archive.read(f"data/{key}")
        if storages[key].nbytes != count * dtype.itemsize:
            raise _damaged(path, f"storage {key} has not the {count} {dtype} elements that its tensors need")
        return storages[key].view(dtype)

    pickled = io.BytesIO(archive.read("data.pkl").tobytes())
    return ClosedUnpickler(pickled, path, storage, functools.partial(_read_bytes, path=path)).load()


@dataclasses.dataclass(frozen=True)
class _Archive:
    """The entries of torch.save's zip archive, which all lie in one folder."""

    zip: zipfile.ZipFile
    content: np.ndarray  # (n,) uint8, the whole file
    path: str
    folder: str

    @classmethod
    def open(cls, file: BinaryIO, content: np.ndarray, path: str) -> _Archive:
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
            raise _damaged(path, f"the zip archive is cut short or has changed bytes ({error})") from error
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise BadFile(path, "is a zip archive, but none of torch.save", "check that it is the right file")
        return cls(archive, content, path, pickles[0].removesuffix("/data.pkl"))

    def has(self, name: str) -> bool:
        return f"{self.folder}/{name}" in self.zip.NameToInfo

    def read(self, name: str) -> np.ndarray:
        """Bytes of an entry: (n,) uint8, a view of the file where they are stored uncompressed, as torch.save does."""
        if not self.has(name):
            raise _damaged(self.path, f"its entry {name} is missing")
        entry = self.zip.getinfo(f"{self.folder}/{name}")
        if entry.compress_type != zipfile.ZIP_STORED:
            try:
                return np.frombuffer(self.zip.read(entry), np.uint8)
            except (zipfile.BadZipFile, RuntimeError, EOFError, zlib.error) as error:
                raise _damaged(self.path, f"its entry {name} cannot be unpacked ({error})") from error
        header = self.content[entry.header_offset : entry.header_offset + 30].tobytes()
        name_length, extra_length = struct.unpack("<HH", header[26:].ljust(4, b"\0"))
        start = entry.header_offset + 30 + name_length + extra_length
        data = self.content[start : start + entry.file_size]
        # torch.save can be told to leave the checksums out: they are 0 then.
        if len(data) != entry.file_size or (entry.CRC and zlib.crc32(data) != entry.CRC):
            raise _damaged(self.path, f"its entry {name} is cut short or has changed bytes")
        return data
