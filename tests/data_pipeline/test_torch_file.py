"""PyTorch's files, as PyTorch wrote them (fixtures/make_torch_fixtures.py), damaged, and hostile."""

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


def test_large_files_are_mapped_not_copied(tmp_path):
    array = np.arange(1 << 22, dtype=np.float32)
    torch_file.save(tmp_path / "x.pth", {"x": array})
    tracemalloc.start()
    found = torch_file.load(tmp_path / "x.pth")["x"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < array.nbytes / 50
    assert not found.flags.writeable and found.ctypes.data % 64 == 0
    np.testing.assert_array_equal(found, array)


# Hostile files


class Run:
    """Pickles as a call: what a harmful file looks like."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def in_zip(path, pickled):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")


def in_stream(path, pickled):
    magic, version = pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2)
    path.write_bytes(magic + version + pickle.dumps({"little_endian": True}, 2) + pickled + pickle.dumps([], 2))


def in_tensor(path, pickled):
    inner = b"B" + struct.pack("<I", len(pickled)) + pickled
    path.write_bytes(b"\x80\x03ctorch.storage\n_load_from_bytes\n(" + inner + b"tR.")


@pytest.mark.parametrize("write", [in_zip, in_stream, in_tensor, pathlib.Path.write_bytes])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_is_refused_and_not_run(tmp_path, write, protocol):
    trace = tmp_path / "was_run"
    pickled = pickle.dumps({"model": [Run(os.mkdir, str(trace))]}, protocol)
    write(tmp_path / "x.pkl", pickled)
    with pytest.raises(torch_file.RefusedPickle, match=r"x\.pkl: asks for 'posix\.mkdir'.*To mend it"):
        torch_file.load(tmp_path / "x.pkl")
    assert not trace.exists()


@pytest.mark.parametrize("function", [eval, exec, getattr, __import__, np.load, np.fromfile, open, bytearray])
def test_other_functions_are_refused(tmp_path, function):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(Run(function, "x"), 2))
    with pytest.raises(torch_file.RefusedPickle, match="which is not on the list"):
        torch_file.load(tmp_path / "x.pkl")


TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n("
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"


@pytest.mark.parametrize(
    "pickled",
    [
        TENSOR + STORAGE + b"K\x00(K\x05t(K\x01t\x89}tR",  # five elements of four
        TENSOR + STORAGE + b"K\x01(K\x02K\x02t(K\x02K\x01t\x89}tR",  # beyond the end with the offset
        TENSOR + STORAGE + b"J\xff\xff\xff\xff(K\x02t(K\x01t\x89}tR",  # before the start
        TENSOR + STORAGE + b"K\x03(K\x02t(J\xff\xff\xff\xfft\x89}tR",  # backwards
        TENSOR + STORAGE + b"K\x00(K\x02t(K\x01K\x01t\x89}tR",  # more strides than axes
        # A storage that is itself a tensor of one element repeated a thousand times.
        TENSOR + TENSOR + STORAGE + b"K\x00(M\xe8\x03t(K\x00t\x89}tR" + b"K\x00(M\xe8\x03t(K\x01t\x89}tR",
        # Changing a function of the list, or numpy's own reconstruction with a state from the file.
        b"ctorch._utils\n_rebuild_tensor_v2\n(N}X\x09\x00\x00\x00_functionctorch\nSize\nstb",
        b"ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aK\x01sb",
        b"ctorch.nn.parameter\nParameter\n(N}X\x01\x00\x00\x00aK\x01stb",
        b"cnumpy\ndtype\n(X\x01\x00\x00\x00OtR",  # arrays of objects
        b"cnumpy\ndtype\n(X\x02\x00\x00\x00f4tR(K\x03X\x01\x00\x00\x00<tb",  # a state cut short
        b"(X\x06\x00\x00\x00moduletQ",  # not a storage
    ],
)
def test_harmful_pickles_are_refused(tmp_path, pickled):
    storage = pickle.dumps(["0"], 2) + struct.pack("<q", 4) + bytes(16)
    magic, version = pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2)
    system = pickle.dumps({"little_endian": True}, 2)
    (tmp_path / "x.pth").write_bytes(magic + version + system + b"\x80\x02" + pickled + b"." + storage)
    with pytest.raises(BadFile, match=r"x\.pth: is no readable pickle"):
        torch_file.load(tmp_path / "x.pth")


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
    with pytest.raises(BadFile, match="cannot be read"):
        torch_file.load(tmp_path)
