"""The processes that a process has started for its work (Linux)."""

import pathlib


def of(pid: int) -> list[int]:
    """Those that Python's multiprocessing has spawned for `pid`."""
    threads = pathlib.Path(f"/proc/{pid}/task").glob("*/children")
    children = [child for thread in threads for child in thread.read_text().split()]
    return [int(child) for child in children if b"spawn_main" in pathlib.Path(f"/proc/{child}/cmdline").read_bytes()]
