"""A bucket that is a folder of this machine; and tests that belong to another environment."""

import importlib.util

import fsspec
import pytest
from etils.epath import backend
from fsspec.implementations.dirfs import DirFileSystem

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
