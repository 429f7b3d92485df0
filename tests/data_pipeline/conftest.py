"""Data that several files of tests read; a bucket in a folder; and tests that belong to another environment."""

import importlib.util

import fsspec
import pytest
from etils.epath import backend
from fsspec.implementations.dirfs import DirFileSystem

from data_pipeline import avsbench, synthetic
from tests.data_pipeline import conversions
from tests.data_pipeline.known_records import write_set
from tests.data_pipeline.raw_layouts import write_s4

# Beam is an extra that holds protobuf back: .ci/run makes an environment of its own, and runs its tests there.
collect_ignore = [] if importlib.util.find_spec("apache_beam") else ["test_beam.py"]


class Bucket(DirFileSystem):
    """gs:// in a folder; addresses come with and without their beginning."""

    protocol = "gs"

    def _join(self, path):
        return super()._join(
            [self._strip_protocol(each) for each in path] if isinstance(path, list) else self._strip_protocol(path)
        )

    @classmethod
    def _strip_protocol(cls, path):
        return path.removeprefix("gs://").strip("/")


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """gs://bucket, and the folder that stands in for it."""
    store = Bucket(str(tmp_path / "store"), fsspec.filesystem("file", auto_mkdir=True))
    monkeypatch.setattr(backend.fsspec_backend, "fs", lambda path: store)
    (tmp_path / "store/bucket").mkdir(parents=True)
    return "gs://bucket", tmp_path / "store/bucket"


@pytest.fixture(scope="session")
def s4(tmp_path_factory):
    """Records of S4."""
    return write_set(tmp_path_factory.mktemp("s4"), "s4", {"train": 13, "val": 7})


@pytest.fixture(scope="session")
def avss(tmp_path_factory):
    """Records of AVSS: clips of 10 and of 5 frames, in turns."""
    return write_set(tmp_path_factory.mktemp("avss"), "avss", {"train": 4, "test": 4}, size=(48, 64))


@pytest.fixture(scope="session")
def raw(tmp_path_factory):
    """A raw set of each task."""
    root = tmp_path_factory.mktemp("raw")
    for task in avsbench.TASKS:
        synthetic.write(task, root / task, conversions.CLIPS, conversions.SIZE, processes=1)
    return root


@pytest.fixture(scope="session")
def whole(raw, tmp_path_factory):
    """Each task converted without trouble, in one go, by one process."""
    out = tmp_path_factory.mktemp("whole")
    for task in avsbench.TASKS:
        conversions.run(raw, out, task, shards_per_split=2)
    return out


@pytest.fixture
def raw_s4(tmp_path):
    """The folder of a raw S4 set."""
    write_s4(tmp_path)
    return tmp_path
