"""Files mapped into memory, and what is said of things that are no file."""

import os

import numpy as np
import pytest

from data_pipeline.mapped import map_file
from data_pipeline.problems import BadFile


@pytest.mark.parametrize("content", [b"x", bytes(range(256)) * 40, b"weights, then <html> far from their start"])
def test_the_bytes_are_the_files(tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    mapped = map_file(tmp_path / "x.pth")
    assert mapped.dtype == np.uint8 and mapped.shape == (len(content),) and mapped.tobytes() == content
    with pytest.raises(ValueError, match="read-only"):
        mapped[0] = 0


def test_a_file_in_a_bucket_is_read(bucket):
    address, folder = bucket
    (folder / "x.pth").write_bytes(b"weights")
    assert map_file(f"{address}/x.pth").tobytes() == b"weights"
    with pytest.raises(BadFile, match="gs://bucket/y.pth: the file is missing"):
        map_file(f"{address}/y.pth")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 9\n", "git lfs pull"),
        (b"<!DOCTYPE html>\n<html><head>", "is a web page"),
        (b"\xef\xbb\xbf\r\n  <HTML>", "is a web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code>', "is a web page"),
    ],
)
def test_what_a_failed_download_leaves_is_refused(tmp_path, content, what):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(BadFile, match=rf"x\.pth: .*{what}"):
        map_file(tmp_path / "x.pth")


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for path, what in (
        (tmp_path, "is a folder"),
        (tmp_path / "pipe", "is a pipe or a device"),  # opened, it would be waited for
        (tmp_path / "loop", "cannot be read"),
        (tmp_path / "none", "the file is missing"),
    ):
        with pytest.raises(BadFile, match=what):
            map_file(path)
