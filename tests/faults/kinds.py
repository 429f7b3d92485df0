"""What goes wrong: damage to files before a life of the process, signals during it."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import time
from collections.abc import Callable

from tests import worker_processes
from tests.faults.life import EVAL_EVERY, Life, steps

PREEMPTED, REFUSED, BEFORE_THE_RUN = 75, 2, -signal.SIGTERM


@dataclasses.dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    Attributes:
      during: acts on a life that has started.
      codes: the exit codes that are right.
      before: acts on the files.
      after: puts back what is not part of the run.
      needs_step: `before` acts on a finished step.
      names_path: the error says which path it is about.
    """

    during: Callable[[Life], None]
    codes: tuple[int, ...]
    before: Callable[[Life], None] = lambda life: None
    after: Callable[[Life], None] = lambda life: None
    needs_step: bool = False
    names_path: bool = False


def some_steps_later(life: Life) -> None:
    """Waits for one to four new steps."""
    target = life.step() + life.chance.randint(1, 4)
    life.wait_for(lambda: life.step() >= target)


def at_any_time(number: int) -> Callable[[Life], None]:
    def during(life: Life) -> None:
        if life.chance.random() < 0.25:  # while it starts
            time.sleep(life.chance.uniform(0, 6))
        else:
            some_steps_later(life)
            time.sleep(life.chance.uniform(0, 0.2))
        life.send(number)

    return during


def in_a_save(number: int) -> Callable[[Life], None]:
    def during(life: Life) -> None:
        some_steps_later(life)
        life.wait_for(lambda: any((life.workdir / "checkpoints").glob("*tmp*")))
        time.sleep(life.chance.uniform(0, 0.03))
        life.send(number)

    return during


def in_an_evaluation(number: int) -> Callable[[Life], None]:
    def during(life: Life) -> None:
        target = (life.step() // EVAL_EVERY + 1) * EVAL_EVERY
        life.wait_for(lambda: life.step() >= target)  # logged just before its evaluation
        time.sleep(life.chance.uniform(0, 0.1))
        life.send(number)

    return during


def until_saved(life: Life) -> None:
    """Lets the run save once more, and stops it."""
    known = set(steps(life.workdir))
    life.wait_for(lambda: bool(set(steps(life.workdir)) - known))
    life.send(signal.SIGTERM)


def until_it_ends(life: Life) -> None:
    """Nothing is done to it."""


def newest_file(life: Life) -> pathlib.Path:
    """Any file with content of the newest checkpoint."""
    folder = life.workdir / "checkpoints" / str(steps(life.workdir)[-1])
    found = life.chance.choice(sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size))
    life.notes = str(found.relative_to(life.workdir / "checkpoints"))
    return found


def truncate(life: Life) -> None:
    path = newest_file(life)
    os.truncate(path, life.chance.randrange(path.stat().st_size))


def flip(life: Life) -> None:
    path = newest_file(life)
    data = bytearray(path.read_bytes())
    data[life.chance.randrange(len(data))] ^= 1 << life.chance.randrange(8)
    path.write_bytes(data)


def empty(life: Life) -> None:
    folder = life.workdir / "checkpoints" / str(steps(life.workdir)[-1])
    life.notes = folder.name
    shutil.rmtree(folder)
    folder.mkdir()


def fill_disk(life: Life) -> None:
    """A disk with room for a part of one checkpoint more."""
    for unfinished in (life.workdir / "checkpoints").glob("*tmp*"):  # the run would make room of them
        shutil.rmtree(unfinished)
    newest = life.workdir / "checkpoints" / str(steps(life.workdir)[-1])
    free = int(size_on_disk(newest) * life.chance.uniform(0, 0.9))
    life.disk = size_on_disk(life.workdir) + free
    life.notes = f"{free} bytes free"


def size_on_disk(folder: pathlib.Path, page: int = 4096) -> int:
    """Bytes that the files of a folder take on a disk in memory."""
    return sum(-(-path.stat().st_size // page) * page for path in folder.rglob("*") if path.is_file())


def remove_mount(life: Life) -> None:
    life.workdir.with_name(f"{life.workdir.name}.real").rmdir()


def hide_record(life: Life) -> None:
    life.hidden = life.chance.choice(sorted(life.records.rglob("*-train.tfrecord-?????-of-?????")))
    life.notes = life.hidden.name
    life.hidden.rename(f"{life.hidden}.hidden")


def show_record(life: Life) -> None:
    pathlib.Path(f"{life.hidden}.hidden").rename(life.hidden)


def with_workers(life: Life) -> None:
    life.settings = ("--config.data.workers=2", "--config.data.buffer=1")  # else they have read all that is to come


def kill_worker(life: Life) -> None:
    some_steps_later(life)
    os.kill(life.chance.choice(worker_processes.of(life.process.pid)), signal.SIGKILL)


KILL, TERM = signal.SIGKILL, signal.SIGTERM
STOPPED = (PREEMPTED, BEFORE_THE_RUN)  # before the loop has begun SIGTERM ends a process as ever
FAULTS = {
    "SIGKILL": Fault(at_any_time(KILL), (-KILL,)),
    "SIGTERM": Fault(at_any_time(TERM), STOPPED),
    "SIGKILL in a save": Fault(in_a_save(KILL), (-KILL,)),
    "SIGTERM in a save": Fault(in_a_save(TERM), STOPPED),
    "SIGKILL in an evaluation": Fault(in_an_evaluation(KILL), (-KILL,)),
    "SIGTERM in an evaluation": Fault(in_an_evaluation(TERM), STOPPED),
    "truncated checkpoint file": Fault(until_saved, STOPPED, truncate, needs_step=True),
    "flipped bit in a checkpoint": Fault(until_saved, STOPPED, flip, needs_step=True),
    "empty step folder": Fault(until_saved, STOPPED, empty, needs_step=True),
    "full disk": Fault(until_it_ends, (REFUSED,), fill_disk, remove_mount, needs_step=True, names_path=True),
    "record file gone": Fault(until_it_ends, (REFUSED,), hide_record, show_record, names_path=True),
    "loader worker killed": Fault(kill_worker, (REFUSED,), with_workers),
}
DAMAGES = {truncate, flip, empty}
SHORT = (
    "SIGTERM in an evaluation", "SIGKILL in a save", "flipped bit in a checkpoint", "full disk", "record file gone",
    "loader worker killed",
)  # fmt: skip


def possible(names: list[str]) -> list[str]:
    """Those of `names` that can be tried here: a full disk only where a user may mount one."""
    unshare = shutil.which("unshare")
    mounts = unshare and subprocess.run([unshare, "-rm", "true"], capture_output=True).returncode == 0
    return [name for name in names if mounts or name != "full disk"]
