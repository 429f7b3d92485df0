"""One process of a small run, by the real command (Linux)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable

ROOT = pathlib.Path(__file__).parents[2]
STEPS, EVAL_EVERY, SAVE_EVERY, KEPT = 32, 6, 2, 3
PATIENCE = 300  # seconds, after which a process counts as hung
# Mounts a disk of $0 bytes on the workdir $1, which it holds from then on, and runs a command there.
ON_A_DISK = """
set -e
mkdir "$1.real"
mount --bind "$1" "$1.real"
mount -t tmpfs -o size="$0" none "$1"
cp -a "$1.real/." "$1"
code=0
"${@:2}" || code=$?
find "$1.real" -mindepth 1 -delete
cp -a "$1/." "$1.real"
exit $code
"""


@dataclasses.dataclass
class Life:
    """One process on a run's workdir."""

    workdir: pathlib.Path
    records: pathlib.Path
    chance: random.Random
    settings: tuple[str, ...] = ()
    disk: int | None = None  # bytes of a disk of its own
    process: subprocess.Popen | None = None
    hidden: pathlib.Path | None = None
    notes: str = ""

    def start(self) -> None:
        line = [
            sys.executable, "-m", "avs_jax.main", "--config", "tests/integration/tiny.py",
            "--workdir", str(self.workdir), f"--config.data.records={self.records}", f"--config.train.steps={STEPS}",
            f"--config.eval.every_steps={EVAL_EVERY}", f"--config.checkpoint.every_steps={SAVE_EVERY}",
            f"--config.checkpoint.keep_latest={KEPT}", "--config.eval.pictures=0", "--config.eval.audio=",
            *self.settings,
        ]  # fmt: skip
        if self.disk is not None:
            line = ["unshare", "-rm", "bash", "-c", ON_A_DISK, str(self.disk), str(self.workdir), *line]
        environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
        self.errors = (self.workdir.parent / f"{self.workdir.name}.stderr").open("w+")
        self.process = subprocess.Popen(line, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=self.errors)

    def alive(self) -> bool:
        return self.process.poll() is None

    def wait_for(self, happened: Callable[[], bool]) -> None:
        """Returns when it has happened, or the process has ended."""
        end = time.monotonic() + PATIENCE
        while self.alive() and not happened():
            assert time.monotonic() < end, f"{self.workdir}: nothing happens"
            time.sleep(0.003)

    def send(self, number: int) -> None:
        if self.alive():
            self.process.send_signal(number)

    def step(self) -> int:
        """The last step in the log."""
        log = self.workdir / "metrics.jsonl"
        found = re.findall(r'"step": (\d+), "train', log.read_text()) if log.exists() else []
        return int(found[-1]) if found else 0

    def ended(self) -> tuple[int, list[str]]:
        """The exit code, and the lines that the process has left in its standard error."""
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"{self.workdir}: the process hangs") from None
        self.errors.seek(0)
        lines = self.errors.read().splitlines()
        self.errors.close()
        return self.process.returncode, lines


def steps(workdir: pathlib.Path) -> list[int]:
    """The finished steps; Orbax gives a step its name when it is whole."""
    return sorted(int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit())


def logged(workdir: pathlib.Path) -> list[int]:
    """The steps of which there is a line of training."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [line["step"] for line in lines if "train/loss" in line]


def content(folder: pathlib.Path) -> str:
    """A digest of all files of a folder."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()
