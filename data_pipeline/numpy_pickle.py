"""What stands for numpy's functions and classes where a pickle holds arrays; numpy's own trust the file."""

from __future__ import annotations

from typing import Any

import numpy as np

from data_pipeline.pickle_literals import BadPickle
from data_pipeline.pickle_machine import Function, Unfinished

MAX_DIMENSIONS = 64  # numpy's
MAX_TYPE_NAME = 20  # characters


def natural(number: Any) -> int:
    """A size. Raises BadPickle for anything else (True, too, is an int to Python)."""
    if type(number) is not int or number < 0:
        raise BadPickle("has a size that is no natural number")
    return number


def naturals(numbers: Any) -> tuple[int, ...]:
    """A shape, or what else has one number for each axis. Raises BadPickle for anything else."""
    if not isinstance(numbers, tuple) or len(numbers) > MAX_DIMENSIONS:
        raise BadPickle("has an array whose shape or strides are none")
    return tuple(map(natural, numbers))


class Type(Unfinished):
    """A numpy dtype while it is unpickled: its name, then its state, of which only the byte order matters."""

    __slots__ = ("dtype",)

    def __init__(self, name: str, *_: Any):
        if not isinstance(name, str) or not name.isalnum() or len(name) > MAX_TYPE_NAME:
            raise BadPickle("names an element type by something else than a name")
        self.dtype = np.dtype(name)
        if self.dtype.kind not in "biufcSU":
            raise BadPickle(f"has arrays of {name!r}, which are not on the closed list")

    def build(self, state: tuple) -> None:
        order, width = state[1], state[5]
        if self.dtype.kind in "SU" and self.dtype.itemsize == 0:
            self.dtype = np.dtype(f"{self.dtype.kind}{natural(width) // (4 if self.dtype.kind == 'U' else 1)}")
        if order in (">", "<"):
            self.dtype = self.dtype.newbyteorder(order)

    def read(self, data: bytes | str, shape: tuple[int, ...], order: str) -> np.ndarray:
        raw = data.encode("latin1") if isinstance(data, str) else data
        array = np.frombuffer(raw, self.dtype).reshape(naturals(shape), order=order)
        return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


class Array(Unfinished):
    """A numpy array while it is unpickled; its state sets `array`. (numpy's own reconstruction trusts the file.)"""

    __slots__ = ("array",)

    def build(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        self.array = _read(dtype, data, shape, "F" if fortran is True else "C")


def _read(dtype: Any, data: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(dtype, Type) or not isinstance(data, bytes | str) or order not in ("C", "F"):
        raise BadPickle("has an array without an element type or content")
    return dtype.read(data, shape, order)


def _from_buffer(data: bytes, dtype: Type, shape: tuple[int, ...], order: str, axes: Any = None) -> np.ndarray:
    if order != "K":
        return _read(dtype, data, shape, order)
    array = _read(dtype, data, shape, "C")  # as it lies in memory; its axes are moved
    if sorted(naturals(axes)) != list(range(array.ndim)):
        raise BadPickle("has an array whose axes are none")
    return array.transpose(axes)


def _scalar(dtype: Type, data: bytes | str) -> np.generic:
    return _read(dtype, data, (1,), "C")[0]


_MULTIARRAY = {"_reconstruct": lambda *_: Array(), "scalar": _scalar}

GLOBALS: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): Function(Type),
    ("numpy", "ndarray"): "ndarray",  # an argument of _reconstruct, never called
    **{(f"numpy.{c}.multiarray", name): Function(f) for c in ("core", "_core") for name, f in _MULTIARRAY.items()},
    **{(f"numpy.{core}.numeric", "_frombuffer"): Function(_from_buffer) for core in ("core", "_core")},
}
"""What a pickle of arrays may ask for, by module and name."""
