"""Work in several processes."""

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PARENT_OF_TWO = """
import fcntl, os, pathlib, sys, time
from data_pipeline import workers

def wait(folder):
    with open(pathlib.Path(folder) / f"{os.getpid()}.held", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        pathlib.Path(folder, f"{os.getpid()}.ready").touch()
        time.sleep(600)

if __name__ == "__main__":
    list(workers.run(wait, sys.argv[1:] * 2, processes=2))
"""


def test_workers_end_when_their_parent_is_killed(tmp_path):
    """Each of two workers holds a lock and waits; the parent is killed, and the locks come free."""
    (tmp_path / "parent.py").write_text(PARENT_OF_TWO)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    parent = subprocess.Popen([sys.executable, str(tmp_path / "parent.py"), str(tmp_path)], env=environment)
    while len(list(tmp_path.glob("*.ready"))) < 2:
        assert parent.poll() is None
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    for held in tmp_path.glob("*.held"):
        with open(held) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
