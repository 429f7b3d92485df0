r"""Trains variants of one configuration with several seeds each, and makes a table of means and spreads.

    python -m avs_jax.compare --config configs/vct_ms3_demo.py --workdir runs/queries --seeds 3 \
        --run vision-centric --run "audio-centric --config.model.query_generator.name=audio"

A `--run` is a name and the arguments by which it differs. Each is trained in `<workdir>/<name>/<seed>` by
`avs_jax.main`; started again, the comparison goes on where it was. The table, of the test split, is printed and written
to `<workdir>/table.md`.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shlex
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence

Results = Mapping[str, Mapping]  # what a run leaves in results.json


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains what is not trained yet, and prints the table; returns the exit code of a run that failed, or 0."""
    parser = argparse.ArgumentParser(prog="python -m avs_jax.compare", description=__doc__.partition("\n")[0])
    parser.add_argument("--config", required=True, help="a file of configs/, with arguments after a colon")
    parser.add_argument("--workdir", required=True, type=pathlib.Path)
    parser.add_argument("--seeds", type=int, default=3, help="how many runs of each, from seed 0 on")
    parser.add_argument("--run", action="append", required=True, help="a name, and arguments of avs_jax.main")
    flags = parser.parse_args(arguments)
    found: dict[str, list[Results]] = {}
    for name, *changes in map(shlex.split, flags.run):
        for seed in range(flags.seeds):
            workdir = flags.workdir / name / str(seed)
            if not _is_finished(workdir):
                command = [sys.executable, "-m", "avs_jax.main", "--config", flags.config, "--workdir", str(workdir)]
                done = subprocess.run([*command, f"--config.seed={seed}", *changes])
                if done.returncode:
                    return done.returncode
            found.setdefault(name, []).append(json.loads((workdir / "results.json").read_text()))
    made = table(found)
    (flags.workdir / "table.md").write_text(made + "\n")
    print(made)
    return 0


def table(found: Mapping[str, Sequence[Results]]) -> str:
    """The mean and the standard deviation of J and F (`clip`) of each run's seeds, for every audio, in Markdown."""
    first = next(iter(found.values()))[0]
    audios = [name for name, value in first.items() if isinstance(value, Mapping) and name != "drop"]
    columns = [(audio, figure) for audio in audios for figure in ("J", "F")]
    lines = [
        "| run | seeds | " + " | ".join(f"{figure}, {audio}" for audio, figure in columns) + " |",
        "|---" * (2 + len(columns)) + "|",
    ]
    for name, runs in found.items():
        values = ([run[audio]["clip"][figure] for run in runs] for audio, figure in columns)
        lines.append(f"| {name} | {len(runs)} | " + " | ".join(map(_mean_and_spread, values)) + " |")
    return "\n".join(lines)


def _mean_and_spread(values: Sequence[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.3f} ± {spread:.3f}"


def _is_finished(workdir: pathlib.Path) -> bool:
    """Whether a run has come to its end, where it measures the test split."""
    path = workdir / "results.json"
    return path.exists() and json.loads(path.read_text()).get("split") == "test"


if __name__ == "__main__":
    sys.exit(main())
