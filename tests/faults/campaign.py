"""A fault campaign: a small run is disturbed again and again, and must end as the one that nobody disturbs.

    python -m tests.faults.campaign --faults 60 --seed 0

Each fault comes with one life of the process: files are damaged before it, or signals come during it. After each life
no finished checkpoint may be lost or changed, and a process that gave up must have said why in one line. A run is
disturbed several times, then left alone until its end, and its parameters are compared bit for bit. Linux only.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import pathlib
import random
import re
import sys
import tempfile
from collections.abc import Iterator

from avs_jax.train import checkpoint, demo_data
from tests.faults.kinds import DAMAGES, FAULTS, REFUSED, possible, until_saved
from tests.faults.life import EVAL_EVERY, KEPT, STEPS, Life, content, logged, steps
from tests.integration import tiny

LIVES = 6  # of a run, before it is left alone


@dataclasses.dataclass(frozen=True)
class Row:
    """What one fault did."""

    fault: str
    notes: str
    before: int  # the newest finished step
    after: int
    code: int
    word: str  # the error, or the warning of a damaged checkpoint
    wrong: str  # what should not have happened

    def line(self, number: int) -> str:
        """A line of the table."""
        word = self.word if len(self.word) < 90 else self.word[:87] + "..."
        outcome = self.wrong or word
        return f"| {number} | {self.fault} | {self.notes} | {self.before} | {self.after} | {self.code} | {outcome} |"


HEAD = "| | fault | what | newest step before | after | exit code | word |\n|---|---|---|---|---|---|---|"


def live(name: str, workdir: pathlib.Path, records: pathlib.Path, chance: random.Random) -> Row:
    """One life with one fault, and what must hold after it."""
    fault, life = FAULTS[name], Life(workdir, records, chance)
    if fault.needs_step and not steps(workdir):
        first = Life(workdir, records, chance)
        first.start()
        until_saved(first)
        first.ended()
    known = {step: content(workdir / "checkpoints" / str(step)) for step in steps(workdir)}
    fault.before(life)
    damaged = max(known) if fault.before in DAMAGES else None
    life.start()
    fault.during(life)
    code, lines = life.ended()
    fault.after(life)

    left = steps(workdir)
    whole = {step: digest for step, digest in known.items() if step != damaged}
    errors = [line for line in lines if line.startswith("error: ")]
    words = errors + [re.sub(r".*(checkpoint \S+ is damaged)", r"\1", line) for line in lines if "is damaged" in line]
    wrong = []
    if code not in fault.codes:
        wrong.append(f"exit code {code}: {' '.join(lines[-3:])}")
    if code == REFUSED and (len(errors) != 1 or any("Traceback" in line for line in lines)):
        wrong.append(f"not one clear error: {' '.join(lines[-5:])}")
    elif fault.names_path and not any(str(workdir.parent) in error for error in errors):
        wrong.append(f"the error names no path: {' '.join(errors)}")
    if max(whole, default=0) > max(left, default=0):
        wrong.append(f"step {max(whole)} is lost")
    lost = sorted(set(whole) - set(left))
    if lost and len([step for step in left if step > max(lost)]) < KEPT:
        wrong.append(f"steps {lost} went too early")
    changed = [step for step in left if step in whole and content(workdir / "checkpoints" / str(step)) != whole[step]]
    if changed:
        wrong.append(f"steps {changed} have changed")
    word = words[0] if words else ""
    return Row(name, life.notes, max(known, default=0), max(left, default=0), code, word, "; ".join(wrong))


def arrays(workdir: pathlib.Path) -> tuple[int, dict]:
    """The last step and the checksums of all its arrays."""
    checkpoints = checkpoint.Checkpoints(workdir / "checkpoints", KEPT, 1, "clip/J")
    meta = checkpoints.meta()
    checkpoints.close()
    return meta["step"], meta["arrays"]


def undisturbed(workdir: pathlib.Path, records: pathlib.Path) -> list[str]:
    """Runs to the end; returns what was wrong with that."""
    life = Life(workdir, records, random.Random(0))
    life.start()
    code, lines = life.ended()
    return [] if code == 0 else [f"a life without fault ended with {code}: {lines[-1] if lines else ''}"]


def campaign(names: list[str], folder: pathlib.Path, seed: int) -> Iterator[Row | str]:
    """Goes through the faults; yields a row each, and a line on what was wrong with the end of a run.

    Args:
      names: of FAULTS, in the order in which they strike.
      folder: empty; runs and records are left in it.
    """
    chance, records = random.Random(seed), folder / "records"
    config = tiny.get_config()
    config.data.records = str(records)
    demo_data.ensure_records(config)
    yield from undisturbed(folder / "undisturbed", records)
    expected = arrays(folder / "undisturbed")
    waiting, run = list(names), 0
    while waiting:
        run += 1
        workdir = folder / f"run_{run}"
        for _ in range(LIVES):
            if not waiting or max(steps(workdir), default=0) > STEPS - 2 * EVAL_EVERY:
                break
            yield live(waiting.pop(0), workdir, records, chance)
        yield from undisturbed(workdir, records)
        if arrays(workdir) != expected:
            yield f"{workdir} did not end with the right parameters"
        if logged(workdir) != list(range(1, STEPS + 1)):
            yield f"{workdir} has not logged every step once: {logged(workdir)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--faults", type=int, default=60, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random")
    parser.add_argument("--kinds", default=",".join(FAULTS), help="some of them: 'SIGKILL,full disk'")
    given = parser.parse_args()
    chance = random.Random(given.seed)
    kinds = given.kinds.split(",")
    if possible(kinds) != kinds:
        print("a full disk cannot be tried: this user may not mount one")
    names = list(itertools.islice(itertools.cycle(possible(kinds)), given.faults))
    chance.shuffle(names)
    print(HEAD)
    wrong = number = 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for found in campaign(names, pathlib.Path(folder), given.seed):
            if isinstance(found, Row):
                number += 1
                wrong += bool(found.wrong)
                print(found.line(number), flush=True)
            else:
                wrong += 1
                print(found, flush=True)
    print(f"{number} faults, {wrong} of them or of the runs' ends wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
