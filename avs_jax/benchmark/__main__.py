"""Times a configuration's model, alone or against PyTorch; see README.md beside this file.

python -m avs_jax.benchmark --config configs/s4.py:pvt_v2_b5,224 --components model,encoder --modes forward,train
python -m avs_jax.benchmark --config configs/ms3.py:resnet50,224 --against torch --config.eval.batch_size=1
python -m avs_jax.benchmark --config configs/ms3.py:resnet50,224 --sweep batch --values 1,2,4 --plot batch.svg
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
import tempfile

from absl import app, flags
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/, with arguments after a colon.")
COMPONENTS = flags.DEFINE_list("components", ["model"], "Parts to time: model, backbone, vggish, query_generator, ...")
MODES = flags.DEFINE_list("modes", ["forward"], "forward, predict, train.")
AGAINST = flags.DEFINE_enum("against", "", ["", "torch"], "What to compare with; needs the extra `bench`.")
PEER_DTYPE = flags.DEFINE_enum("peer_dtype", "float32", ["float32", "bfloat16"], "PyTorch's autocast.")
PEER_COMPILE = flags.DEFINE_bool("peer_compile", False, "Runs PyTorch through torch.compile.")
ROUNDS = flags.DEFINE_integer("rounds", 3, "Rounds of each side, in turn.", lower_bound=1)
SECONDS = flags.DEFINE_float("seconds", 1.0, "What a round of a side takes, about.", lower_bound=0.0)
THREADS = flags.DEFINE_integer("threads", 0, "CPU cores to run on, both sides alike; 0: all.", lower_bound=0)
MEMORY = flags.DEFINE_bool("memory", False, "Also measures resident memory, in processes of their own.")
SWEEP = flags.DEFINE_enum("sweep", "", ["", "batch", "frames"], "Fits time and memory of the model against this.")
VALUES = flags.DEFINE_list("values", ["1", "2", "4"], "Of --sweep.")
PLOT = flags.DEFINE_string("plot", "", "An SVG file for --sweep.")
JSON = flags.DEFINE_string("json", "", "A file for all figures.")


def main(argv: list[str]) -> None:
    """Measures, prints tables, and writes JSON."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    with tempfile.TemporaryDirectory() as cache:
        _prepare(cache)
        found = _sweep() if SWEEP.value else _measure()
    if JSON.value:
        pathlib.Path(JSON.value).write_text(json.dumps(found, indent=1) + "\n")


def _prepare(cache: str) -> None:
    """Takes the cores before JAX does, leaves room for PyTorch on a GPU, and compiles into an empty cache."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if THREADS.value:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: THREADS.value])
    if AGAINST.value:
        import torch

        torch.set_num_threads(len(os.sched_getaffinity(0)))
    import jax

    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _measure() -> dict:
    from avs_jax.benchmark import report, run

    options = run.Options(
        components=_chosen(COMPONENTS, run.programs.COMPONENTS),
        modes=_chosen(MODES, run.programs.MODES),
        rounds=ROUNDS.value,
        seconds=SECONDS.value,
        against=AGAINST.value,
        peer_dtype=PEER_DTYPE.value,
        peer_compile=PEER_COMPILE.value,
        resident=MEMORY.value,
    )
    found = run.measure_all(CONFIG.value, options, tell=lambda result: print(_line(result), file=sys.stderr))
    print(report.headline(found), report.measurements(found["results"]), sep="\n\n")
    if AGAINST.value:
        print("", report.comparisons(found["results"]), sep="\n")
    return found


def _sweep() -> dict:
    from avs_jax.benchmark import run, sweep

    (mode,) = _chosen(MODES, run.programs.MODES)
    found = sweep.sweep(CONFIG.value, SWEEP.value, [int(value) for value in VALUES.value], mode, SECONDS.value, print)
    for name, line in found["fits"].items():
        print(f"{name}: {line['intercept']:.4g} + {line['slope']:.4g} each, R2 {line['r2']:.5f}")
    if PLOT.value:
        pathlib.Path(PLOT.value).write_text(sweep.plot(found))
    return {"machine": run.machine(), **found}


def _chosen(flag: flags.FlagHolder, known: tuple[str, ...]) -> tuple[str, ...]:
    for value in flag.value:
        if value not in known:
            raise app.UsageError(f"--{flag.name}={value}: one of {', '.join(known)}")
    return tuple(flag.value)


def _line(result: dict) -> str:
    ratio = f", ratio {result['ratio']['wall']['value']:.2f}" if "ratio" in result else ""
    return f"{result['component']} {result['mode']}: {1e3 * result['seconds']['wall']:.1f} ms{ratio}"


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
