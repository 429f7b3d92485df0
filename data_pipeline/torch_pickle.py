"""Unpickling of PyTorch's and numpy's files by a closed list: nothing that a file names is ever imported or called.

Every global that a pickle may ask for is on the list below and stands for a function of this module; any other one is
refused. Tensors become numpy arrays, views of their storages with the file's strides and offsets.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from data_pipeline import numpy_pickle
from data_pipeline.numpy_pickle import natural, naturals
from data_pipeline.pickle_literals import BadPickle, Source
from data_pipeline.pickle_machine import Allowance, Function, PickleMachine, Unfinished, pairs
from data_pipeline.problems import BadFile

MAGIC = 0x1950A86A20F9469CFC6C
"""The first pickle of torch.save's form before 1.6."""
STREAM_VERSION = 1001
"""The second."""

STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}
"""PyTorch's storage classes by name, and the element type of each."""

_BEYOND_NUMPY = ("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")
TYPES = {name: np.dtype(name) for name in {*STORAGES.values(), "uint16", "uint32", "uint64"} - {*_BEYOND_NUMPY}} | {
    name: np.dtype(getattr(ml_dtypes, name)) for name in _BEYOND_NUMPY
}
"""PyTorch's element types by name."""


MAX_SHOWN = 200  # characters of a file's own words in an error
MAX_DEPTH = 100  # of containers in containers


class RefusedPickle(BadFile):
    """A pickle that asks for something outside the closed list, which may be an attempt to run code."""


class ClosedUnpickler:
    """Reads the pickles of one file.

    Args:
      path: the file's name, for errors.
      allowance: what is left of the file's.
      storage: (key, element type, number of elements) -> one-dimensional array, for tensors' storages.
      nested: bytes of a whole PyTorch file -> what it holds, for tensors that were pickled without torch.save.
    """

    def __init__(
        self,
        path: str,
        allowance: Allowance,
        storage: Callable[[str, np.dtype, int], np.ndarray],
        nested: Callable[[bytes], Any],
    ):
        self._path, self._allowance, self._storage, self._nested = path, allowance, storage, nested

    def load(self, source: Source) -> Any:
        """The next pickle's object, of dicts, lists, tuples, texts, numbers and numpy arrays.

        Raises: RefusedPickle for a global outside the list, BadFile where the pickle is damaged.
        """
        try:
            found = PickleMachine(source, self._allowance, self._find_global, self._find_storage).run()
            return _Finisher(self._allowance).finish(found)
        except BadFile:
            raise
        except Exception as error:  # a damaged pickle can fail in any way
            reason = str(error) if isinstance(error, BadPickle) else f"{type(error).__name__}: {error}"
            what = f"is no readable pickle ({reason[:MAX_SHOWN]})"
            raise BadFile(self._path, what, "download or write the file anew") from error

    def _find_global(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return Function(self._nested)
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        if module in ("torch", "torch.storage", "torch.cuda") and name in STORAGES:
            return STORAGES[name]
        if module == "torch" and name in TYPES:
            return name
        asked = f"{module}.{name}"[:MAX_SHOWN]
        raise RefusedPickle(
            self._path,
            f"asks for {asked!r}, which is not on the list of what tensors and arrays need; nothing was run",
            "if you trust the file, load it with its own program and save only its tensors",
        )

    def _find_storage(self, pid: Any) -> np.ndarray:
        match pid:
            case ("storage", str(type_name), str() | int() as key, _, count, *rest) if type_name in TYPES:
                storage = self._storage(str(key), TYPES[type_name], natural(count))
            case _:
                raise BadPickle("has a persistent object that is no storage")
        if not rest or rest[0] is None:
            return storage
        _, offset, size = rest[0]  # storages that were parts of others, in files of PyTorch 0.3 and before
        return _view(storage, offset, (size,), (1,))


class _Finisher:
    """Puts the arrays in the place of what stood for them while the pickle was read."""

    def __init__(self, allowance: Allowance):
        self._allowance = allowance
        self._done: dict[int, Any] = {}  # by identity: what is shared stays shared, and is visited once

    def finish(self, found: Any, depth: int = 0) -> Any:
        """The same content. Raises BadPickle for containers that hold themselves, or too many in one another."""
        match found:
            case numpy_pickle.Array() | _OldParameter():
                return self.finish(found.array)
            case numpy_pickle.Type():
                return found.dtype
            case np.ndarray():
                # Views that repeat their elements, as expanded tensors do, can be larger than any memory.
                low, high = np.lib.array_utils.byte_bounds(found)
                self._allowance.copy(max(0, found.nbytes - (high - low)))
                return found
            case dict() | list() | tuple():
                return self._finish_container(found, depth)
            case _:
                return found

    def _finish_container(self, found: Any, depth: int) -> Any:
        if depth == MAX_DEPTH:
            raise BadPickle(f"has more than {MAX_DEPTH} containers in one another")
        if id(found) in self._done:
            return self._done[id(found)]
        if isinstance(found, dict):
            items = [(key, self.finish(value, depth + 1)) for key, value in found.items()]
            finished = collections.OrderedDict(items) if isinstance(found, collections.OrderedDict) else dict(items)
        else:
            finished = type(found)([self.finish(value, depth + 1) for value in found])
        self._done[id(found)] = finished
        return finished


class _OldParameter(Unfinished):
    """A `torch.nn.Parameter` of PyTorch 0.3 and before, pickled as an object: its data, then flags."""

    __slots__ = ("array",)

    def __init__(self, data: np.ndarray, requires_grad: bool = True):
        self.array = _same(data)

    def build(self, state: tuple) -> None:
        if len(state) == 4:
            self.array = _view(*state)


def _view(storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> np.ndarray:
    """A tensor: the storage's elements from `offset`, as far apart as `stride` says on each axis (all in elements)."""
    # What follows goes around numpy's own bounds, and anything can stand in the place of the storage.
    if not isinstance(storage, np.ndarray) or storage.ndim != 1 or not storage.flags.c_contiguous:
        raise BadPickle("has a tensor with something else than a storage for its elements")
    offset, size, stride = natural(offset), naturals(size), naturals(stride)
    if 0 in size:
        return np.empty(size, storage.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if last >= len(storage):
        raise BadPickle(f"has a tensor of shape {size} that reaches outside its storage")
    # Along an axis of one element the step is never taken, and can be any number.
    steps = [step * storage.itemsize if n > 1 else 0 for n, step in zip(size, stride, strict=True)]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps)


def _tensor_of_type(storage: np.ndarray, offset: int, size: tuple, stride: tuple, *rest: Any) -> np.ndarray:
    """A tensor that names its element type apart from its storage, which counts bytes."""
    _, _, type_name, *_ = rest
    if not isinstance(storage, np.ndarray) or not isinstance(type_name, str):
        raise BadPickle("has a tensor without a storage or an element type")
    return _view(storage.view(TYPES[type_name]), offset, size, stride)


def _same(array: Any, *_: Any) -> np.ndarray:
    """A parameter, which is its data."""
    if not isinstance(array, np.ndarray):
        raise BadPickle("has a parameter that is no tensor")
    return array


def _encode(text: str, encoding: str) -> bytes:
    """Bytes in pickles of protocol 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise BadPickle("has bytes that are not encoded as latin1")
    return text.encode("latin1")


def _ordered_dict(items: list = ()) -> collections.OrderedDict:
    return collections.OrderedDict(pairs(items))


def _device(kind: str, index: int | None = None) -> str:
    if not isinstance(kind, str) or not isinstance(index, int | None):
        raise BadPickle("has a device without a name")
    return kind if index is None else f"{kind}:{index}"


_REBUILD = {
    "_rebuild_tensor": _view,
    "_rebuild_tensor_v2": _view,
    "_rebuild_tensor_v3": _tensor_of_type,
    "_rebuild_parameter": _same,
    "_rebuild_parameter_with_state": _same,
}

_ALLOWED: dict[tuple[str, str], Any] = numpy_pickle.GLOBALS | {
    ("collections", "OrderedDict"): Function(_ordered_dict),
    ("torch", "Size"): Function(naturals),
    ("torch", "device"): Function(_device),
    ("torch.nn.parameter", "Parameter"): Function(_OldParameter),
    ("_codecs", "encode"): Function(_encode),
    **{("torch._utils", name): Function(function) for name, function in _REBUILD.items()},
    **{(module, "bytes"): Function(lambda: b"") for module in ("builtins", "__builtin__")},
}
