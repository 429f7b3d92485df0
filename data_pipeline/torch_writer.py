"""Writing PyTorch's files without PyTorch: zip archives as torch.save makes them, and pickled tensors."""

from __future__ import annotations

import collections
import contextlib
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from data_pipeline.torch_pickle import MAGIC, STORAGES, STREAM_VERSION, TYPES

_ALIGNMENT = 64  # bytes, of the storages in a zip archive
_STORAGE_NAMES = {TYPES[element]: name for name, element in STORAGES.items() if name != "UntypedStorage"}
_PROTOCOL_2, _PROTOCOL_3 = pickle.PROTO + b"\x02", pickle.PROTO + b"\x03"
_SYSTEM = {"protocol_version": STREAM_VERSION, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


def save(path: str | os.PathLike, obj: Any) -> None:
    """Writes dicts, lists, tuples, strings, numbers and numpy arrays as a zip archive that torch.load opens.

    The arrays become tensors on the CPU (`weights_only=True` suffices to read them). Nothing is left at `path` where
    the writing fails.

    Raises: TypeError for anything else, or an element type that PyTorch has no storage for.
    """
    arrays: list[np.ndarray] = []

    def tensor(array: np.ndarray) -> bytes:
        arrays.append(array)
        return _tensor(_storage(array, str(len(arrays) - 1)), array)

    content = _PROTOCOL_2 + _pickled(obj, tensor) + pickle.STOP
    with _whole(Path(path)) as file, zipfile.ZipFile(file, "w") as archive:
        _write_entry(archive, file, "data.pkl", content)
        _write_entry(archive, file, "byteorder", b"little")
        for key, array in enumerate(arrays):
            _write_entry(archive, file, f"data/{key}", _raw(array))
        _write_entry(archive, file, "version", b"3\n")


def save_pickled_tensor(path: str | os.PathLike, array: np.ndarray) -> None:
    """Writes what `pickle.dump(tensor, file)` writes of a tensor that requires gradients, as AVSBench's log-mels are.

    Raises: TypeError for an element type that PyTorch has no storage for.
    """
    array = _native(np.asarray(array))
    header = b"".join(pickle.dumps(part, 2) for part in (MAGIC, STREAM_VERSION, _SYSTEM))
    stored = _PROTOCOL_2 + _storage(array, "0", pickle.NONE) + pickle.STOP
    stream = header + stored + pickle.dumps(["0"], 2) + struct.pack("<q", array.size) + _raw(array).tobytes()
    storage = _global("torch.storage", "_load_from_bytes") + _tuple(_plain(stream)) + pickle.REDUCE
    with _whole(Path(path)) as file:
        file.write(_PROTOCOL_3 + _tensor(storage, array, requires_grad=True) + pickle.STOP)


def _pickled(value: Any, tensor: Callable[[np.ndarray], bytes]) -> bytes:
    """Opcodes that push `value`; `tensor` gives those for an array."""
    match value:
        case np.ndarray() | np.generic():
            return tensor(_native(np.asarray(value)))
        case dict():
            items = (_pickled(key, tensor) + _pickled(item, tensor) for key, item in value.items())
            start = _ORDERED_DICT if isinstance(value, collections.OrderedDict) else pickle.EMPTY_DICT
            return start + pickle.MARK + b"".join(items) + pickle.SETITEMS
        case list():
            items = (_pickled(item, tensor) for item in value)
            return pickle.EMPTY_LIST + pickle.MARK + b"".join(items) + pickle.APPENDS
        case tuple():
            return _tuple(*(_pickled(item, tensor) for item in value))
        case _:
            return _plain(value)


def _plain(value: Any) -> bytes:
    """Opcodes that push None, a number, a string, bytes, or a tuple of them."""
    match value:
        case None | bool():
            return {None: pickle.NONE, True: pickle.NEWTRUE, False: pickle.NEWFALSE}[value]
        case int():
            content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return pickle.LONG1 + bytes([len(content)]) + content
        case float():
            return pickle.BINFLOAT + struct.pack(">d", value)
        case str():
            content = value.encode()
            return pickle.BINUNICODE + struct.pack("<I", len(content)) + content
        case bytes():
            return pickle.BINBYTES + struct.pack("<I", len(value)) + value
        case tuple():
            return _tuple(*map(_plain, value))
        case _:
            raise TypeError(f"cannot save a {type(value).__name__}; containers of numpy arrays are expected")


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _tuple(*items: bytes) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE


_ORDERED_DICT = _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE


def _storage(array: np.ndarray, key: str, *more: bytes) -> bytes:
    """Opcodes that push a storage by its key."""
    kind = _global("torch", _STORAGE_NAMES[array.dtype])
    words = (_plain("storage"), kind, _plain(key), _plain("cpu"), _plain(array.size))
    return _tuple(*words, *more) + pickle.BINPERSID


def _tensor(storage: bytes, array: np.ndarray, requires_grad: bool = False) -> bytes:
    """Opcodes that push a tensor, given those that push its storage."""
    strides = tuple(int(np.prod(array.shape[axis + 1 :], dtype=int)) for axis in range(array.ndim))
    words = map(_plain, (0, array.shape, strides, requires_grad))
    return _global("torch._utils", "_rebuild_tensor_v2") + _tuple(storage, *words, _ORDERED_DICT) + pickle.REDUCE


def _native(array: np.ndarray) -> np.ndarray:
    """The array in rows, in the machine's byte order, of a type that PyTorch has."""
    array = np.asarray(array, array.dtype.newbyteorder("="), order="C")
    if array.dtype not in _STORAGE_NAMES:
        raise TypeError(f"PyTorch has no storage for {array.dtype}; it has {', '.join(map(str, _STORAGE_NAMES))}")
    return array


def _raw(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(np.uint8)


def _write_entry(archive: zipfile.ZipFile, file: BinaryIO, name: str, data: bytes | np.ndarray) -> None:
    """Adds an uncompressed entry whose data start at a multiple of 64 bytes, so that they can be mapped."""
    entry = zipfile.ZipInfo(f"archive/{name}")
    padding = -(file.tell() + 30 + len(entry.filename) + 4) % _ALIGNMENT
    entry.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    archive.writestr(entry, data)


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """A file for writing that appears at `path` only when all of it is written."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            yield file
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
