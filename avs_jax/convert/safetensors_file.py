"""Files in the safetensors format: eight bytes of header length, a JSON header, raw little-endian arrays.

Nothing of a file is believed before it is checked: lengths against the file, ranges against the data and each other,
shapes against ranges.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
from collections.abc import Mapping

import ml_dtypes
import numpy as np

from data_pipeline.mapped import map_file
from data_pipeline.problems import BadFile

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 2_000_000  # some 15,000 arrays: a hostile header cannot fill the memory
MAX_SHOWN = 100  # characters of a file's own words in an error
MAX_DIMENSIONS = 64  # numpy's
METADATA = "__metadata__"
DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}
"""The format's element types."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads a file's arrays, in the order of its header, as read-only views of the memory-mapped file.

    Raises:
      BadFile: the file is missing, cut short or otherwise damaged, or no safetensors file at all.
    """
    data = map_file(path)
    try:
        return _arrays(data)
    except ValueError as error:
        mend = "download or write the file anew, whole; files of PyTorch are read under the endings .pth and .pt"
        raise BadFile(path, f"is no whole safetensors file: {error}", mend) from error


def write(path: str | os.PathLike, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Writes a file that the safetensors library reads; it appears under `path` once it is whole.

    Args:
      path: the file; one that exists is replaced.
      arrays: names and arrays of the types in DTYPES, of any byte order and memory layout.
      metadata: notes for the header.

    Raises:
      ValueError: an array has an element type that the format lacks, or is named like the notes.
    """
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    # As the format's library does: wide elements first, so that every array is aligned.
    names = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    header, end = ({METADATA: dict(metadata)} if metadata else {}), 0
    for name in names:
        begin, end = end, end + arrays[name].nbytes
        header[name] = {
            "dtype": _dtype_name(name, arrays[name].dtype),
            "shape": list(arrays[name].shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    path = pathlib.Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(len(text).to_bytes(LENGTH_BYTES, "little") + text)
            for name in names:
                array = np.ascontiguousarray(arrays[name], arrays[name].dtype.newbyteorder("<"))
                file.write(array.reshape(-1).view(np.uint8).data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _dtype_name(name: str, dtype: np.dtype) -> str:
    if name == METADATA:
        raise ValueError(f"{METADATA!r} cannot be the name of an array: the format keeps its notes there")
    if dtype.newbyteorder("<") not in _NAMES:
        raise ValueError(f"{name} is of type {dtype}; the format has {', '.join(map(str, _NAMES))}")
    return _NAMES[dtype.newbyteorder("<")]


def _arrays(data: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays in a file's bytes. Raises ValueError that says what is wrong with them."""
    if data.size < LENGTH_BYTES:
        raise ValueError(f"it has {data.size} bytes, fewer than the length of a header")
    length = int.from_bytes(data[:LENGTH_BYTES].tobytes(), "little")
    if length > MAX_HEADER_BYTES or length > data.size - LENGTH_BYTES:
        raise ValueError(f"its first bytes give a header of {length} bytes, the file has {data.size}")
    begin = LENGTH_BYTES + length
    header = _header(data[LENGTH_BYTES:begin].tobytes())
    tensors = data[begin:]
    places = {name: _place(name[:MAX_SHOWN], entry, tensors.size) for name, entry in header.items()}
    _check_that_they_tile([(begin, end) for _, _, begin, end in places.values()], tensors.size)
    return {name: tensors[begin:end].view(dtype).reshape(shape) for name, (dtype, shape, begin, end) in places.items()}


def _header(text: bytes) -> dict[str, dict]:
    """The header's entries, without the notes."""
    try:
        header = json.loads(text.decode(), object_pairs_hook=_without_repetition)
    except RecursionError:
        raise ValueError("its header is nested too deeply") from None
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    header.pop(METADATA, None)
    "".join(header).encode()  # raises for halves of characters, which JSON can spell and no file or screen takes
    return header


def _without_repetition(pairs: list[tuple[str, object]]) -> dict:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("its header names something twice")
    return dict(pairs)


def _place(name: str, entry: object, size: int) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """Element type, shape and range of one array."""
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(begin), int(end)]} if all(
            type(n) is int and n >= 0 for n in (*shape, begin, end)
        ):
            if len(shape) > MAX_DIMENSIONS:
                raise ValueError(f"{name} has {len(shape)} dimensions")
            if dtype not in DTYPES:
                raise ValueError(f"{name} is of type {dtype[:MAX_SHOWN]!r}; known are {', '.join(DTYPES)}")
            if not begin <= end <= size:
                raise ValueError(f"{name} ends at byte {end} of the data, which are {size}: the file is cut short")
            if math.prod(shape) * DTYPES[dtype].itemsize != end - begin:
                raise ValueError(f"{name} of shape {tuple(shape)} and type {dtype} does not fill {end - begin} bytes")
            return DTYPES[dtype], tuple(shape), begin, end
    raise ValueError(f"its header's entry {name!r} is not a type, a shape and two offsets")


def _check_that_they_tile(ranges: list[tuple[int, int]], size: int) -> None:
    """Raises ValueError unless the ranges cover the data without gaps and overlaps, as the format demands."""
    reached = 0
    for begin, end in sorted(ranges):
        if begin != reached:
            fault = "overlap" if begin < reached else "leave a gap"
            raise ValueError(f"its arrays {fault} at byte {min(begin, reached)} of the data")
        reached = end
    if reached != size:
        raise ValueError(f"its arrays end at byte {reached} of the data, which are {size}")
