"""PyTorch's files, as PyTorch wrote them (fixtures/make_torch_fixtures.py), and damaged."""

import collections
import os
import pathlib
import pickle
import struct
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest

from data_pipeline import torch_file
from data_pipeline.problems import BadFile

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
BASE = np.arange(24, dtype=np.float32)
EXPECTED = {
    "transposed": BASE.reshape(4, 6).T,
    "slice": BASE[5:20:3],
    "expanded": np.array([[2, 2, 2], [3, 3, 3]], np.float32),
    "half": np.array([0.1, -65504, 2.0**-24], np.float16),
    "bfloat16": np.array([1, -3.140625, 1e38], ml_dtypes.bfloat16),
    "float8": np.array([0.5, -448], ml_dtypes.float8_e4m3fn),
    "uint16": np.array([0, 65535], np.uint16),
    "bool": np.array([[True, False]]),
    "complex": np.array([1 + 2j], np.complex64),
    "empty": np.zeros((0, 3), np.float32),
}
STATE = {
    "module.conv.weight": BASE.reshape(2, 3, 4) / 8,
    "module.tied.weight": BASE.reshape(2, 3, 4) / 8,
    "module.bn.running_var": np.array([0.5, 1.5, -2.0]),
    "module.bn.num_batches_tracked": np.array(7),
}


def assert_same(found, expected):
    assert type(found) is np.ndarray and found.dtype == expected.dtype and found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["zip.pth", "stream.pth"])
def test_files_of_torch_save(name):
    found = torch_file.load(FIXTURES / name)
    for key, expected in EXPECTED.items():
        assert_same(found[key], expected)
    state = found["state_dict"]
    assert isinstance(state, collections.OrderedDict) and list(state) == list(STATE)
    for key, expected in STATE.items():
        assert_same(state[key], expected)
    assert np.shares_memory(state["module.conv.weight"], state["module.tied.weight"])
    assert np.shares_memory(found["transposed"], found["slice"])
    assert (found["shape"], found["device"], found["dtype"]) == ((2, 3), "cuda:1", "float16")
    assert (found["epoch"], found["lr"]) == (12, [1e-4, None, (True, "adamw")])


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pickled_tensors_that_require_gradients(protocol):
    assert_same(torch_file.load(FIXTURES / f"tensor_protocol{protocol}.pkl"), BASE.reshape(2, 1, 3, 4) / 8)


def test_parameters_of_the_first_pytorch_versions():
    assert_same(torch_file.load(FIXTURES / "old_parameter.pth")["weight"], BASE[:6].reshape(2, 3))


def test_zip_without_checksums():
    assert_same(torch_file.load(FIXTURES / "zip_without_checksums.pth")["x"], BASE[:3])


def test_compressed_zip(tmp_path):
    with zipfile.ZipFile(FIXTURES / "zip.pth") as old, zipfile.ZipFile(tmp_path / "x.pth", "w", 8) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert_same(torch_file.load(tmp_path / "x.pth")["slice"], EXPECTED["slice"])


@pytest.mark.parametrize("protocol", range(6))
def test_pickled_numpy_arrays(tmp_path, protocol):
    arrays = {
        "rows": BASE.reshape(2, 3, 4),
        "columns": np.asfortranarray(BASE.reshape(4, 6)),
        "big-endian": np.arange(3, dtype=">i4"),
        "text": np.array(["a", "bcd"]),
        "empty": np.zeros((0, 2)),
        "scalar": np.float64(2.5),
        "dtype": np.dtype("float16"),
    }
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "a", "raw": b"\xff"}, protocol))
    found = torch_file.load(tmp_path / "x.pkl")
    for key, expected in arrays.items():
        np.testing.assert_array_equal(found["model"][key], expected)
    assert found["model"]["columns"].dtype == np.float32 and found["model"]["dtype"] == np.float16
    assert found["raw"] == b"\xff"


def test_arrays_pickled_by_python_2(tmp_path):
    reconstruct = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    dtype = b"cnumpy\ndtype\n(U\x02f4K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    state = b"(K\x01(K\x02t" + dtype + b"\x89U\x08" + np.array([1.5, -2], "<f4").tobytes() + b"tb"
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02}U\x01w" + reconstruct + state + b"s.")
    assert_same(torch_file.load(tmp_path / "x.pkl")["w"], np.array([1.5, -2], np.float32))


def test_what_save_writes_is_read_back(tmp_path):
    content = {"arrays": EXPECTED | STATE, "more": [1, -(2**40), 0.1, "é", None, True, (1, "x"), {}, []]}
    content["arrays"] = {key: array for key, array in content["arrays"].items() if key not in ("uint16", "float8")}
    content["ordered"] = collections.OrderedDict(b=np.float32(1.5), a=np.arange(3, dtype=">i2"))
    torch_file.save(tmp_path / "x.pth", content)
    found = torch_file.load(tmp_path / "x.pth")
    for key, expected in content["arrays"].items():
        assert_same(found["arrays"][key], np.asarray(expected))
    assert found["more"] == content["more"]
    assert isinstance(found["ordered"], collections.OrderedDict) and list(found["ordered"]) == ["b", "a"]
    assert_same(found["ordered"]["b"], np.array(1.5, np.float32))
    assert_same(found["ordered"]["a"], np.arange(3, dtype=np.int16))
    assert os.listdir(tmp_path) == ["x.pth"]


def test_pickled_tensor_is_written_as_published(tmp_path):
    """As a plain pickle of calls to PyTorch's own functions, requiring gradients."""
    log_mel = np.linspace(-4, 3, 5 * 96 * 64, dtype=np.float32).reshape(5, 1, 96, 64)
    torch_file.save_pickled_tensor(tmp_path / "x.pkl", log_mel)
    assert_same(torch_file.load(tmp_path / "x.pkl"), log_mel)
    written = (tmp_path / "x.pkl").read_bytes()
    assert written.startswith(b"\x80\x03ctorch._utils\n_rebuild_tensor_v2\n(ctorch.storage\n_load_from_bytes\n")
    assert written.endswith(b"\x88ccollections\nOrderedDict\n)RtR.")  # requires_grad, no hooks


def test_what_pytorch_has_no_place_for_is_not_saved(tmp_path):
    for value in (np.array(["text"]), np.zeros(2, np.uint16), {1, 2}, object()):
        with pytest.raises(TypeError, match=r"cannot save|no storage"):
            torch_file.save(tmp_path / "x.pth", {"key": value})
    assert os.listdir(tmp_path) == []


def write_stream(path, arrays):
    """One float32 array in the form before PyTorch 1.6."""
    ((name, array),) = arrays.items()
    size = b"J" + struct.pack("<i", array.size)
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + size + b"tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00(" + size + b"t(K\x01t\x89}tR"
    pickled = b"\x80\x02}X" + struct.pack("<I", len(name)) + name.encode() + tensor + b"s."
    header = (pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    with open(path, "wb") as file:
        file.write(b"".join(header) + pickled + pickle.dumps(["0"], 2) + struct.pack("<q", array.size))
        array.tofile(file)


@pytest.mark.parametrize("write", [torch_file.save, write_stream])
def test_large_files_are_mapped_not_copied(tmp_path, write):
    """What reading takes in memory comes on top of the file's own pages, of which a use needs each once."""
    array = np.arange(1 << 24, dtype=np.float32)
    write(tmp_path / "x.pth", {"x": array})
    tracemalloc.start()
    found = torch_file.load(tmp_path / "x.pth")["x"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < array.nbytes / 50
    assert not found.flags.writeable and not found.flags.owndata
    np.testing.assert_array_equal(found, array)


def test_storages_begin_where_vector_loads_want_them(tmp_path):
    torch_file.save(tmp_path / "x.pth", {"x": BASE, "y": BASE[:5], "z": BASE})
    assert all(array.ctypes.data % 64 == 0 for array in torch_file.load(tmp_path / "x.pth").values())


# Damaged files


@pytest.mark.parametrize("name", ["zip.pth", "stream.pth", "tensor_protocol4.pkl", "old_parameter.pth"])
def test_files_cut_short_are_refused(tmp_path, name):
    whole = (FIXTURES / name).read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / name).write_bytes(whole[:length])
        with pytest.raises(BadFile, match=f"{name}: .*To mend it"):
            torch_file.load(tmp_path / name)


@pytest.mark.parametrize("name", ["zip.pth", "stream.pth", "tensor_protocol4.pkl"])
def test_flipped_bytes_give_no_other_error(tmp_path, name):
    whole = (FIXTURES / name).read_bytes()
    rng = np.random.default_rng(0)
    for position in rng.integers(len(whole), size=300):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << rng.integers(8)
        (tmp_path / name).write_bytes(damaged)
        try:
            torch_file.load(tmp_path / name)
        except BadFile as error:
            assert name in str(error)


def test_changed_weights_in_a_zip_are_noticed(tmp_path):
    torch_file.save(tmp_path / "x.pth", {"x": BASE})
    content = (tmp_path / "x.pth").read_bytes()
    assert content.count(BASE.tobytes()) == 1
    (tmp_path / "x.pth").write_bytes(content.replace(BASE.tobytes(), BASE[::-1].tobytes()))
    with pytest.raises(BadFile, match=r"x\.pth: is damaged: its entry 'archive/data/0' has changed bytes"):
        torch_file.load(tmp_path / "x.pth")


def test_files_that_are_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("a.txt", "hello")
    (tmp_path / "text.pth").write_text("404 not found")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "old.tar").write_bytes(bytes(257) + b"ustar" + bytes(250))
    expected = {
        "photos.zip": "none of torch.save",
        "text.pth": "no readable pickle",
        "empty.pth": "empty",
        "missing.pth": "missing",
        "old.tar": "tar archive",
    }
    for name, what in expected.items():
        with pytest.raises(BadFile, match=f"{name}: .*{what}"):
            torch_file.load(tmp_path / name)
    with pytest.raises(BadFile, match="is a folder"):
        torch_file.load(tmp_path)
