"""Files mapped into memory, with a clear refusal of what commonly lies in the place of the file that was meant."""

from __future__ import annotations

import os
import stat

import numpy as np

from data_pipeline import places
from data_pipeline.problems import BadFile, read_bytes

_GIT_LFS = b"version https://git-lfs.github.com/spec/"
_WEB_PAGES = (b"<!doctype html", b"<html", b"<?xml")


def map_file(path: str | os.PathLike) -> np.ndarray:
    """The file's bytes: (n,) uint8, read-only; those of a local file take memory only as they are used.

    Raises: BadFile where the file is missing, empty, unreadable, no ordinary file (a pipe would be waited for without
    end), or the pointer or the web page that a failed download leaves.
    """
    try:
        if places.is_remote(path):
            content = np.frombuffer(read_bytes(places.at(path)), np.uint8)
        else:
            _require_a_file(path, os.stat(path))
            content = np.asarray(np.memmap(path, np.uint8, "r"))
    except FileNotFoundError:
        raise BadFile(path, "the file is missing", "check the path, or restore the file") from None
    except OSError as error:
        raise BadFile(path, f"cannot be read ({error.strerror})", "check the path and its permissions") from error
    _refuse_failed_downloads(path, content[:1000].tobytes())
    return content


def _require_a_file(path: str | os.PathLike, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise BadFile(path, "cannot be read (it is a folder)", "give the path of one file")
    if not stat.S_ISREG(status.st_mode):
        raise BadFile(path, "is a pipe or a device, not a file", "copy its content into a file and give that")
    if not status.st_size:
        raise BadFile(path, "the file is empty", "download or write it anew")


def _refuse_failed_downloads(path: str | os.PathLike, start: bytes) -> None:
    if start.startswith(_GIT_LFS):
        what = "is a pointer of Git LFS that stands for the file, not the file"
        raise BadFile(path, what, "fetch the file itself: run `git lfs install` and `git lfs pull` in its repository")
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_WEB_PAGES):
        what = "is a web page, which some servers send in the place of a file"
        raise BadFile(path, what, "open the address in a browser, follow it to the file and download that")
