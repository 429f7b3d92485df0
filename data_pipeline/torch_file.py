"""PyTorch's files without PyTorch: `.pth`, `.pt`, `.pkl`, read and written as nested containers of numpy arrays.

Three forms are read: torch.save's zip archives (since 1.6), its older stream of pickles and raw storages, and plain
pickles, of tensors (as AVSBench's log-mels are) or of numpy arrays (as Detectron2's weights are). No code that a file
names is run: see `torch_pickle`.
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from data_pipeline.mapped import map_file
from data_pipeline.pickle_literals import Source
from data_pipeline.pickle_machine import Allowance
from data_pipeline.problems import BadFile
from data_pipeline.torch_pickle import MAGIC, STREAM_VERSION, ClosedUnpickler, RefusedPickle
from data_pipeline.torch_writer import save, save_pickled_tensor
from data_pipeline.zip_entries import Archive, BadZip

__all__ = ["RefusedPickle", "load", "save", "save_pickled_tensor"]

_COUNT_BYTES = 8  # of a storage's number of elements, before its data in the older form


def load(path: str | os.PathLike) -> Any:
    """What a PyTorch or pickle file holds: dicts, lists, tuples, strings, numbers, and numpy arrays for tensors.

    Tensors that share a storage share memory. They are views of the mapped file, read-only, which take memory only as
    they are used (and need not be aligned). bfloat16 tensors have ml_dtypes' type of that name.

    Raises: RefusedPickle where the file asks for a global that tensors do not need, BadFile where it is missing,
    damaged, in a form that is not read, or unpacks to many times its size.
    """
    content = map_file(path)
    return _read(content, os.fspath(path), Allowance(len(content)))


def _read(content: np.ndarray, path: str, allowance: Allowance) -> Any:
    """Reads any of the forms from a file's bytes, (n,) uint8."""
    if content[:4].tobytes() == b"PK\x03\x04":
        return _read_zip(content, path, allowance)
    if content[257:262].tobytes() == b"ustar":
        raise BadFile(path, "is a tar archive, as PyTorch before 0.1.10 wrote", "save it anew with a later PyTorch")
    return _read_stream(content, path, allowance, functools.partial(_read_tensor_content, path, allowance))


def _read_tensor_content(path: str, allowance: Allowance, content: Any) -> Any:
    """Reads the older form out of a pickled tensor's bytes; a file in a file in a file would take time without end."""

    def refuse(_: Any) -> Any:
        raise _damaged(path, "a tensor's content holds tensors with contents of their own")

    if not isinstance(content, bytes):
        raise _damaged(path, "a tensor's content is no bytes")
    return _read_stream(np.frombuffer(content, np.uint8), path, allowance, refuse)


def _damaged(path: str, what: str) -> BadFile:
    return BadFile(path, f"is damaged: {what}", "download or write the file anew")


def _read_stream(content: np.ndarray, path: str, allowance: Allowance, nested: Callable[[Any], Any]) -> Any:
    """Reads a plain pickle, or the older form: magic number, version, system, object, storages' keys, storages."""
    sizes: dict[str, tuple[np.dtype, int]] = {}

    def stand_in(key: str, dtype: np.dtype, count: int) -> np.ndarray:
        if count * dtype.itemsize > len(content):
            raise _damaged(path, f"a storage of {count} {dtype} elements is larger than the file")
        if sizes.setdefault(key, (dtype, count)) != (dtype, count):
            raise _damaged(path, f"storage {key[:100]!r} has two types or sizes")
        return content[: count * dtype.itemsize].view(dtype)

    source = Source(memoryview(content), 0)
    unpickler = ClosedUnpickler(path, allowance, stand_in, nested)
    first = unpickler.load(source)
    if not (isinstance(first, int) and first == MAGIC):
        return first
    version, system = unpickler.load(source), unpickler.load(source)
    is_known = isinstance(version, int) and version == STREAM_VERSION and isinstance(system, dict)
    if not is_known or system.get("little_endian") is not True:
        raise BadFile(path, "has an unknown version or big-endian numbers", "save it anew with a current PyTorch")
    # The storages come after the pickle that needs them: it is read twice, once for where they are.
    start = source.position
    unpickler.load(source)
    storages = _storages(content, path, unpickler.load(source), sizes, source.position)
    source.position = start
    return ClosedUnpickler(path, allowance, lambda key, *_: storages[key], nested).load(source)


def _storages(
    content: np.ndarray, path: str, keys: Any, sizes: dict[str, tuple[np.dtype, int]], position: int
) -> dict[str, np.ndarray]:
    """Views of the storages' data, each after its number of elements, from `position` on, in the order of the keys."""
    if not isinstance(keys, list) or not all(isinstance(key, str | int) for key in keys):
        raise _damaged(path, "its list of storages is none")
    keys = [str(key) for key in keys]
    if len(keys) != len(sizes) or set(keys) != set(sizes):
        raise _damaged(path, "its list of storages does not match its tensors")
    storages = {}
    for key in keys:
        dtype, count = sizes[key]
        start, end = position + _COUNT_BYTES, position + _COUNT_BYTES + count * dtype.itemsize
        if content[position:start].tobytes() != struct.pack("<q", count) or end > len(content):
            raise _damaged(path, "a storage is cut short or has another size than its tensors")
        storages[key], position = content[start:end].view(dtype), end
    return storages


def _read_zip(content: np.ndarray, path: str, allowance: Allowance) -> Any:
    """Reads a zip archive: a pickle, and for each storage an entry with its raw data."""
    try:
        return _read_archive(Archive(content), path, allowance)
    except BadZip as error:
        raise _damaged(path, str(error)) from error


def _read_archive(archive: Archive, path: str, allowance: Allowance) -> Any:
    pickles = [name for name in archive.entries if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        what = f"is a zip archive with {len(pickles) or 'no'} entries named data.pkl, and none of torch.save"
        raise BadFile(path, what, "check that it is the right file")
    folder = pickles[0].removesuffix("data.pkl")
    used: dict[str, np.ndarray] = {}

    def entry(name: str) -> np.ndarray:
        if folder + name not in archive.entries:
            raise _damaged(path, f"its entry {name[:100]!r} is missing")
        if name not in used:
            try:
                used[name] = archive.read(folder + name)
            except BadZip as error:
                raise _damaged(path, str(error)) from error
        return used[name]

    def storage(key: str, dtype: np.dtype, count: int) -> np.ndarray:
        data = entry(f"data/{key}")
        if data.nbytes != count * dtype.itemsize:
            raise _damaged(path, f"storage {key[:100]!r} has not the {count} {dtype} elements that its tensors need")
        return data.view(dtype)

    if f"{folder}byteorder" in archive.entries and entry("byteorder").tobytes() != b"little":
        raise BadFile(path, "holds big-endian numbers", "save it anew on a little-endian machine")
    nested = functools.partial(_read_tensor_content, path, allowance)
    source = Source(memoryview(entry("data.pkl")), 0)
    found = ClosedUnpickler(path, allowance, storage, nested).load(source)
    for name, data in used.items():
        archive.check(folder + name, data)
    return found
