"""Pickles that ask for what is not on the closed list, in each form of file."""

import os
import pathlib
import pickle
import struct
import zipfile

import numpy as np
import pytest

from data_pipeline import torch_file
from data_pipeline.problems import BadFile


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
