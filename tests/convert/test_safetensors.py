"""Safetensors files: as the format's own library wrote one, ours, and damaged ones."""

import json
import pathlib

import ml_dtypes
import numpy as np
import pytest

from avs_jax.convert import safetensors_file
from data_pipeline.problems import BadFile

LIBRARY = pathlib.Path(__file__).parent / "fixtures/library.safetensors"
ARRAYS = {  # as in fixtures/make_safetensors_fixture.py
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 8,
    "half": np.array([0.1, -65504, 2.0**-24], np.float16),
    "bfloat16": np.array([[1, -3.140625, 1e38]], ml_dtypes.bfloat16),
    "double": np.array([np.pi]),
    "count": np.array(7),
    "bytes": np.arange(5, dtype=np.uint8),
    "flags": np.array([True, False, True]),
    "empty": np.zeros((0, 3), np.float32),
    "short": np.array([-2, 3], np.int16),
}
PLACE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name


def file_of(header, data=bytes(8)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_a_file_of_the_library_is_read():
    assert_same(safetensors_file.read(LIBRARY), ARRAYS)


def test_a_file_is_written_as_the_library_writes_it(tmp_path):
    path = tmp_path / "ours.safetensors"
    safetensors_file.write(path, ARRAYS, {"format": "np"})
    header, library_header = (
        data[8 : 8 + data[0] + 256 * data[1]] for data in (path.read_bytes(), LIBRARY.read_bytes())
    )
    assert json.loads(header) == json.loads(library_header)
    assert path.read_bytes()[8 + len(header) :] == LIBRARY.read_bytes()[8 + len(library_header) :]
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_any_byte_order_and_layout_is_written(tmp_path):
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    safetensors_file.write(
        tmp_path / "x.safetensors", {"big": array.astype(">f4"), "turned": array.T, "part": array[:, ::2]}
    )
    found = safetensors_file.read(tmp_path / "x.safetensors")
    for name, expected in (("big", array), ("turned", array.T), ("part", array[:, ::2])):
        np.testing.assert_array_equal(found[name], expected)


def test_arrays_are_read_only_views_of_the_file(tmp_path):
    path = tmp_path / "big.safetensors"
    safetensors_file.write(path, {"zeros": np.zeros(1 << 20, np.float32)})
    array = safetensors_file.read(path)["zeros"]
    assert not array.flags.owndata and not array.flags.writeable and type(array) is np.ndarray


def test_arrays_need_not_be_aligned(tmp_path):
    path = tmp_path / "odd.safetensors"
    header = {"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}, "b": {**PLACE, "data_offsets": [1, 9]}}
    path.write_bytes(file_of(header, b"\x05" + np.float32([1, 2]).tobytes()))
    np.testing.assert_array_equal(safetensors_file.read(path)["b"], [1, 2])


@pytest.mark.parametrize("size", [4, 8, 100, len(LIBRARY.read_bytes()) - 1])
def test_a_file_cut_short_is_refused(tmp_path, size):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(LIBRARY.read_bytes()[:size])
    with pytest.raises(BadFile, match="no whole safetensors file"):
        safetensors_file.read(path)


DAMAGED = [
    (file_of({"x": PLACE}, bytes(9)), "end at byte 8 of the data, which are 9"),
    (file_of({"x": {**PLACE, "data_offsets": [0, 7]}}), "does not fill 7 bytes"),
    (file_of({"x": {**PLACE, "shape": [3]}}), "does not fill 8 bytes"),
    (file_of({"x": {**PLACE, "shape": [2**40, 2**40]}}), "does not fill 8 bytes"),
    (file_of({"x": {**PLACE, "shape": [-1, -2]}}), "not a type, a shape and two offsets"),
    (file_of({"x": {**PLACE, "shape": [True, 2]}}), "not a type, a shape and two offsets"),
    (file_of({"x": {**PLACE, "shape": [1] * 65}}), "has 65 dimensions"),
    (file_of({"x": {**PLACE, "shape": [0, 2**63], "data_offsets": [0, 0]}}, b""), "no whole safetensors file"),
    (file_of({"x": {**PLACE, "dtype": "F31"}}), "of type 'F31'"),
    (file_of({"x": {**PLACE, "data_offsets": [8, 0]}}), "cut short"),
    (file_of({"x": {**PLACE, "data_offsets": [8, 16]}}), "ends at byte 16 of the data, which are 8"),
    (file_of({"x": {**PLACE, "data_offsets": [0.0, 8.0]}}), "not a type, a shape and two offsets"),
    (file_of({"x": PLACE, "y": PLACE}), "overlap at byte 0"),
    (file_of({"x": {**PLACE, "data_offsets": [4, 12]}}, bytes(12)), "leave a gap at byte 0"),
    (file_of(b'{"x": 1, "x": 2}'), "names something twice"),
    (file_of({"x": None}), "entry 'x'"),
    (file_of([PLACE]), "no JSON object"),
    (file_of(b"[" * 100_000), "nested too deeply"),
    (file_of({"\ud800": PLACE}), "surrogates not allowed"),
    (file_of(b"\xff\xfe"), "no whole safetensors file"),
    ((2**62).to_bytes(8, "little") + bytes(100), "header of 4611686018427387904 bytes"),
    ((2_000_001).to_bytes(8, "little") + bytes(2_000_001), "header of 2000001 bytes"),
    (b"PK\x03\x04" + bytes(200), "no whole safetensors file"),
]


@pytest.mark.parametrize("content, message", DAMAGED, ids=[message for _, message in DAMAGED])
def test_damage_is_named(tmp_path, content, message):
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(content)
    with pytest.raises(BadFile, match=message):
        safetensors_file.read(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BadFile, match=r"nothing\.safetensors: the file is missing"):
        safetensors_file.read(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize(
    "name, array, message", [("x", np.zeros(1, np.complex64), "complex64"), ("__metadata__", np.zeros(1), "notes")]
)
def test_what_the_format_cannot_hold_is_named_and_nothing_written(tmp_path, name, array, message):
    with pytest.raises(ValueError, match=message):
        safetensors_file.write(tmp_path / "x.safetensors", {name: array})
    assert not list(tmp_path.iterdir())
