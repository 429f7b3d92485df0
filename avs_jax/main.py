"""The command line: trains, evaluating as it goes, evaluates, or says what that would take.

    python -m avs_jax.main --config configs/avss.py --workdir runs/avss
    python -m avs_jax.main --config configs/s4.py:resnet50,512 --mode eval --config.init_from=AVSegFormer_res50_s4.pth
    python -m avs_jax.main --config configs/s4.py --mode compile --topology v5e:2x4 --config.train.batch_size=16

Every key of the configuration can be set: `--config.train.batch_size=4`. A run that is started again
in the same workdir goes on.
"""

from __future__ import annotations

import logging
import os
import pathlib
import sys
import traceback

import jax
from absl import app, flags
from ml_collections import ConfigDict, config_flags

from avs_jax import ahead_of_time, command_line
from avs_jax import config as configuration
from avs_jax.convert import ConversionError
from avs_jax.parallel import ahead, processes
from avs_jax.parallel import mesh as meshes
from avs_jax.train import demo_data, loop
from avs_jax.train.checkpoint import CheckpointError
from data_pipeline.audio_conditions import AudioError
from data_pipeline.convert import ConvertError
from data_pipeline.loader import LoaderError, StateError
from data_pipeline.problems import BadFile, DataError
from data_pipeline.tfrecord import RecordError
from data_pipeline.workers import WorkerError

CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/, with arguments after a colon.")
WORKDIR = flags.DEFINE_string("workdir", None, "Where the run lives; by default runs/ and the configuration's name.")
MODE = flags.DEFINE_enum("mode", "train", ["train", "eval", "compile"], "What to do.")
COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, of a job of several processes.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Of the job. On Cloud TPU and SLURM it is known without.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Of this process in the job, from 0.")
TOPOLOGY = flags.DEFINE_string(
    "topology", "", "--mode compile: v5e:2x4, v5p:2x2x2, h200:8, cuda:8, ...; else this machine."
)
MEMORY_GB = flags.DEFINE_float("memory_gb", 0.0, "--mode compile: a device's memory in GiB, where it is not known.")
STEPS = flags.DEFINE_multi_enum("step", [], ahead_of_time.STEPS, "--mode compile: one of the steps, instead of all.")
SPLIT = flags.DEFINE_enum("split", "test", ["train", "val", "test"], "The split that --mode eval measures.")

# What the user can mend: shown as one line, not as a traceback.
USER_ERRORS = (
    configuration.ConfigError,
    ahead.AheadError,
    meshes.MeshError,
    processes.ProcessError,
    OSError,
    FloatingPointError,
    CheckpointError,
    ConversionError,
    ConvertError,
    DataError,
    BadFile,
    RecordError,
    StateError,
    LoaderError,
    AudioError,
    WorkerError,
)

# Ends a run that was asked to stop and has saved its state: start the same command again to go on.
EXIT_PREEMPTED = 75


def main(argv: list[str]) -> int:
    """Dispatches to a mode; returns the process's exit code."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    _cache_compilations()
    command_line.set_up_logging()

    config = CONFIG.value
    workdir = pathlib.Path(WORKDIR.value or pathlib.Path("runs") / _name(flags.FLAGS))
    try:
        configuration.validate(config)
        if MODE.value == "compile":
            for line in ahead_of_time.report(config, TOPOLOGY.value, MEMORY_GB.value, STEPS.value):
                print(line, flush=True)
            return 0
        processes.initialize(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
        return _run(config, workdir)
    except USER_ERRORS as error:
        print(f"error: {_said(error, workdir)}", file=sys.stderr)
        return processes.leave(2)
    except Exception as error:
        if not jax.distributed.is_initialized():
            raise
        traceback.print_exception(error)
        return processes.leave(processes.exit_code(error))


def _run(config: ConfigDict, workdir: pathlib.Path) -> int:
    if jax.process_index() != 0:
        logging.getLogger("avs_jax").setLevel(logging.WARNING)  # what all would say, one says
    processes.first_alone(lambda: demo_data.ensure_records(config))
    if MODE.value == "eval":
        loop.evaluate(config, workdir, getattr(config.data, f"{SPLIT.value}_split"))
        return 0
    return 0 if loop.train(config, workdir) else EXIT_PREEMPTED


def _said(error: Exception, workdir: pathlib.Path) -> str:
    """The error in words; what fails while a file is written, as on a full disk, does not name the file itself."""
    if isinstance(error, OSError) and error.strerror and not error.filename:
        return f"{workdir}: {error.strerror}: what is finished is kept, and the same command goes on from there"
    return str(error)


def _cache_compilations() -> None:
    """Keeps compiled programs between runs, in JAX_COMPILATION_CACHE_DIR or the user's cache folder."""
    if not jax.config.jax_compilation_cache_dir:
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(cache / "avs_jax" / "compiled"))


def _name(values: flags.FlagValues) -> str:
    return pathlib.Path(values["config"].config_filename.partition(":")[0]).stem


def run() -> None:
    """Entry point of `python -m avs_jax.main`."""
    # `--config.init_from=FILE` is short for all of the model's weights. config_flags looks at sys.argv itself.
    short = "--config.init_from="
    sys.argv = [a.replace(short, "--config.init_from.model=", 1) if a.startswith(short) else a for a in sys.argv]
    app.run(main, flags_parser=command_line.parse)


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    run()
