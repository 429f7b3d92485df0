"""Paths: those of this machine as `pathlib` has them, gs://, s3://, az:// and hf:// as `etils.epath` does.

fsspec reads and writes the latter; each store needs a package beside it (gs: gcsfs, s3: s3fs, az: adlfs).
"""

from __future__ import annotations

import os
from pathlib import Path

from etils import epath

_STORES = ("gs", "s3", "az", "hf")


def at(path: str | os.PathLike) -> Path:
    """A path, wherever it leads; paths made from it lead there too.

    Raises:
      ValueError: an address of a kind that is not known.
    """
    store, found, _ = os.fspath(path).partition("://")
    if not found:
        return Path(path)
    if store not in _STORES:
        raise ValueError(f"{os.fspath(path)}: a path, or an address that begins with {'://, '.join(_STORES)}://")
    return epath.Path(path)


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path leads to an object store, where there are no locks, no mapping into memory and no renaming."""
    return "://" in os.fspath(path)


def size(path: Path) -> int:
    """Bytes of a file."""
    status = path.stat()
    return status.length if is_remote(path) else status.st_size
