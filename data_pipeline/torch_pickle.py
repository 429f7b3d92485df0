"""Unpickling of PyTorch's and numpy's files by a closed list: nothing that a file names is ever imported or called.

Every global that a pickle may ask for is on the list below and stands for a function of this module; any other one is
refused. Tensors become numpy arrays, views of their storages with the file's strides and offsets.
"""

from __future__ import annotations

import codecs
import collections
import pickle
from collections.abc import Callable
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

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


class RefusedPickle(BadFile):
    """A pickle that asks for something outside the closed list, which may be an attempt to run code."""


class ClosedUnpickler(pickle.Unpickler):
    """Reads one pickle from `file`.

    Args:
      file: opened for reading, at the pickle's start.
      path: the file's name, for errors.
      storage: (key, element type, number of elements) -> one-dimensional array, for tensors' storages.
      nested: bytes of a whole PyTorch file -> what it holds, for tensors that were pickled without torch.save.
    """

    def __init__(
        self,
        file: BinaryIO,
        path: str,
        storage: Callable[[str, np.dtype, int], np.ndarray],
        nested: Callable[[bytes], Any],
    ):
        super().__init__(file, encoding="latin1")  # Python 2's strings, numpy's binary ones among them
        self._path, self._storage, self._nested = path, storage, nested

    def load(self) -> Any:
        """The pickle's object, of dicts, lists, tuples, sets, strings, numbers and numpy arrays.

        Raises: RefusedPickle for a global outside the list, BadFile where the pickle is damaged.
        """
        try:
            return _finish(super().load())
        except BadFile:
            raise
        except Exception as error:  # a damaged pickle can fail in any way
            what = f"is no readable pickle ({type(error).__name__}: {error})"
            raise BadFile(self._path, what, "download or write the file anew") from error

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return _Function(self._nested)
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        if module in ("torch", "torch.storage", "torch.cuda") and name in STORAGES:
            return STORAGES[name]
        if module == "torch" and name in TYPES:
            return name
        raise RefusedPickle(
            self._path,
            f"asks for '{module}.{name}', which is not on the list of what tensors and arrays need; nothing was run",
            "if you trust the file, load it with its own program and save only its tensors",
        )

    def persistent_load(self, pid: Any) -> np.ndarray:
        kind, type_name, key, _, count, *rest = pid
        if kind != "storage" or type_name not in TYPES or not isinstance(count, int) or count < 0:
            raise pickle.UnpicklingError(f"unknown persistent object {kind!r}")
        view = rest[0] if rest else None
        if view is None:
            return self._storage(str(key), TYPES[type_name], count)
        _, offset, size = view  # storages that were parts of others, in files of PyTorch 0.3 and before
        return _view(self._storage(str(key), TYPES[type_name], count), offset, (size,), (1,))


class _Function:
    """What a global of the closed list stands for. A pickle can call it, but neither set nor add attributes."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]):
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError("a pickle cannot change the functions of the closed list")


class _NumpyType:
    """A numpy dtype while it is unpickled: its name, then its state, of which only the byte order matters."""

    __slots__ = ("dtype",)

    def __init__(self, name: str, *_: Any):
        self.dtype = np.dtype(str(name))
        if self.dtype.kind not in "biufcSU":
            raise pickle.UnpicklingError(f"arrays of {name!r} are not on the closed list")

    def __setstate__(self, state: tuple) -> None:
        order, width = state[1], state[5]
        if self.dtype.kind in "SU" and self.dtype.itemsize == 0:
            self.dtype = np.dtype(f"{self.dtype.kind}{width // (4 if self.dtype.kind == 'U' else 1)}")
        if order in (">", "<"):
            self.dtype = self.dtype.newbyteorder(order)

    def read(self, data: bytes | str, shape: tuple[int, ...], order: str) -> np.ndarray:
        raw = data.encode("latin1") if isinstance(data, str) else bytes(data)
        array = np.frombuffer(raw, self.dtype).reshape(shape, order=order)
        return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


class _NumpyArray:
    """A numpy array while it is unpickled; its state sets `array`. (numpy's own reconstruction trusts the file.)"""

    __slots__ = ("array",)

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        self.array = dtype.read(data, shape, "F" if fortran else "C")


class _OldParameter:
    """A `torch.nn.Parameter` of PyTorch 0.3 and before, pickled as an object: its data, then flags."""

    __slots__ = ("array",)

    def __new__(cls, data: np.ndarray, requires_grad: bool = True) -> _OldParameter:
        parameter = object.__new__(cls)
        parameter.array = data
        return parameter

    def __setstate__(self, state: tuple) -> None:
        if len(state) == 4:
            self.array = _view(*state)


def _view(storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> np.ndarray:
    """A tensor: the storage's elements from `offset`, as far apart as `stride` says on each axis (all in elements)."""
    # What follows goes around numpy's own bounds, and anything can stand in the place of the storage.
    if not isinstance(storage, np.ndarray) or storage.ndim != 1 or not storage.flags.c_contiguous:
        raise pickle.UnpicklingError("a tensor has something else than a storage for its elements")
    if 0 in size:
        return np.empty(size, storage.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min(offset, *size, *stride, 0) < 0 or last >= len(storage):
        raise pickle.UnpicklingError(f"a tensor of shape {tuple(size)} reaches outside its storage")
    steps = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps)


def _tensor_of_type(storage: np.ndarray, offset: int, size: tuple, stride: tuple, *rest: Any) -> np.ndarray:
    """A tensor that names its element type apart from its storage, which counts bytes."""
    _, _, type_name, *_ = rest
    return _view(storage.view(TYPES[type_name]), offset, size, stride)


def _encode(text: str, encoding: str) -> bytes:
    """Bytes in pickles of protocol 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes are encoded as latin1 in pickles, not as {encoding!r}")
    return codecs.latin_1_encode(text)[0]


def _empty_bytes() -> bytes:
    return b""


def _numpy_array(*_: Any) -> _NumpyArray:
    return _NumpyArray()


def _numpy_from_buffer(data: bytes, dtype: _NumpyType, shape: tuple[int, ...], order: str) -> np.ndarray:
    return dtype.read(data, shape, order)


def _numpy_scalar(dtype: _NumpyType, data: bytes | str) -> np.generic:
    return dtype.read(data, (1,), "C")[0]


_REBUILD = {
    "_rebuild_tensor": _view,
    "_rebuild_tensor_v2": _view,
    "_rebuild_tensor_v3": _tensor_of_type,
    "_rebuild_parameter": lambda data, *_: data,
    "_rebuild_parameter_with_state": lambda data, *_: data,
}
_NUMPY = {"_reconstruct": _numpy_array, "scalar": _numpy_scalar}

_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Function(collections.OrderedDict),
    ("torch", "Size"): _Function(tuple),
    ("torch", "device"): _Function(lambda kind, index=None: kind if index is None else f"{kind}:{index}"),
    ("torch.nn.parameter", "Parameter"): _OldParameter,
    ("numpy", "dtype"): _Function(_NumpyType),
    ("numpy", "ndarray"): "ndarray",  # an argument of _reconstruct, never called
    ("_codecs", "encode"): _Function(_encode),
    **{("torch._utils", name): _Function(function) for name, function in _REBUILD.items()},
    **{(f"numpy.{core}.multiarray", name): _Function(f) for core in ("core", "_core") for name, f in _NUMPY.items()},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _Function(_numpy_from_buffer) for core in ("core", "_core")},
    **{(module, "bytes"): _Function(_empty_bytes) for module in ("builtins", "__builtin__")},
}


def _finish(found: Any) -> Any:
    """Puts the arrays in the place of what stood for them while the pickle was read."""
    match found:
        case _NumpyArray() | _OldParameter():
            return found.array
        case _NumpyType():
            return found.dtype
        case dict():
            items = ((key, _finish(value)) for key, value in found.items())
            return collections.OrderedDict(items) if isinstance(found, collections.OrderedDict) else dict(items)
        case list() | tuple():
            return type(found)(_finish(value) for value in found)
        case _:
            return found
