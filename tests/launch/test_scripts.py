"""What holds for every launch script: its dry run, its variables, its errors; shellcheck; the container's file."""

import ast
import pathlib
import shlex
import subprocess
import sys
import tomllib

import pytest

from avs_jax.parallel import processes
from tests.launch import stub
from tests.launch.conftest import CLOUD, ROOT, SCRIPTS

PROGRAMS = ("gcloud", "xpk", "kubectl", "docker", "srun", "scontrol")
TRAINERS = SCRIPTS[:-1]
HOSTILE = {
    "CONFIG": "configs/my own.py:resnet50",
    "WORKDIR": """/mnt/storage/it's "my" $HOME `id` $(id);id&\\run""",
    "EXTRA_ARGS": """--config.eval.audio='silence, swap'  --config.a="it's" --config.b=\\$x '' --config.c=$(id)""",
}
EXTRA = ["--config.eval.audio=silence, swap", "--config.a=it's", "--config.b=$x", "", "--config.c=$(id)"]


def dry_run(launcher, script, **variables):
    """The commands that a dry run shows, each as words."""
    done = launcher(script, "--dry-run", **variables)
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines()]


def trained(commands):
    """The words of the line that trains, out of the last command of a dry run, unwrapped."""
    words = commands[-1]
    for word in words:
        if word.startswith("--command="):
            words = shlex.split(word.removeprefix("--command="))
    return words[words.index("python") :]


def test_shellcheck_finds_nothing():
    scripts = sorted(map(str, (ROOT / "launch").glob("*.s[hb]*")))
    assert len(scripts) == len(SCRIPTS) + 3
    command = [pathlib.Path(sys.executable).with_name("shellcheck"), "-x", "-P", "SCRIPTDIR", *scripts]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_dry_run_shows_commands_that_the_programs_know_and_runs_none(launcher, script):
    commands = dry_run(launcher, script, BUILD=1, RECORDS="gs://bucket/avsbench_s4")
    assert len(commands) >= (1 if script == "slurm.sbatch" else 3)
    for program, *arguments in commands:
        if program in PROGRAMS:
            stub.parse(program, arguments)
    assert not launcher.calls()


@pytest.mark.parametrize("script", TRAINERS)
def test_all_end_in_the_same_line(launcher, script):
    line = ["python", "-m", "avs_jax.main", "--config", CLOUD["CONFIG"], "--workdir", CLOUD["WORKDIR"]]
    assert trained(dry_run(launcher, script)) == line


@pytest.mark.parametrize("script", TRAINERS)
def test_values_with_spaces_and_quotes_arrive_intact(launcher, script):
    words = trained(dry_run(launcher, script, **HOSTILE))
    assert words[3:] == ["--config", HOSTILE["CONFIG"], "--workdir", HOSTILE["WORKDIR"], *EXTRA]


@pytest.mark.parametrize("script", TRAINERS)
@pytest.mark.parametrize("missing", [("CONFIG",), ("WORKDIR", "NAME")])
def test_what_is_missing_is_named_in_one_error(launcher, script, missing):
    missing = [name for name in missing if name != "NAME" or script != "slurm.sbatch"]
    done = launcher(script, without=missing)
    assert done.returncode == 2 and done.stdout == "" and not launcher.calls()
    assert done.stderr.startswith(f"error: not set: {' '.join(missing)} (environment variables, see ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("script", "variables", "error"),
    [
        ("tpu_vm.sh", {"EXTRA_ARGS": "--a='b"}, "EXTRA_ARGS=--a='b: its quotes do not match"),
        ("tpu_vm.sh", {"TPU_TYPE": "h100"}, "TPU_TYPE=h100: v4-*, v5litepod-*, v5p-* or v6e-*, or set RUNTIME"),
        ("tpu_vm.sh", {"SPOT": "1", "STORAGE": ""}, "SPOT=1 without STORAGE: a preempted machine takes its disk along"),
        (
            "tpu_vm.sh",
            {"SPOT": "1", "WORKDIR": "runs/s4"},
            "WORKDIR=runs/s4 is not on STORAGE, which is mounted at /mnt",
        ),
        ("tpu_vm.sh", {"SPOT": "yes"}, "SPOT=yes: 0 or 1"),
        ("queued_resource.sh", {"MAX_RESTARTS": "many"}, "MAX_RESTARTS=many: a whole number is needed"),
        ("xpk.sh", {"NAME": "My_Run"}, "NAME=My_Run: lower-case letters, digits and dashes only"),
        (
            "xpk.sh",
            {"DEVICE_TYPE": "h100-80gb-8"},
            "set TPU_TYPE (v5litepod-64), or DEVICE_TYPE (h100-80gb-8) for GPUs",
        ),
        ("setup_vm.sh", {"ACCELERATOR": "abacus"}, "ACCELERATOR=abacus: tpu, cuda or cpu"),
        ("slurm.sbatch", {}, "no SLURM job: submit this file with sbatch"),
    ],
)
def test_wrong_values_are_one_clear_error(launcher, script, variables, error):
    done = launcher(script, **variables)
    assert done.returncode == 2 and not launcher.calls()
    assert done.stderr.startswith(f"error: {error}") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_unknown_argument_runs_nothing(launcher, script):
    done = launcher(script, "--dryrun")
    assert done.returncode == 2 and not launcher.calls()
    assert done.stderr.startswith("error: unknown argument --dryrun")


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_help_names_every_variable_that_is_read(launcher, script):
    shown = launcher(script, "--help").stdout
    assert shown and "#" not in shown.replace("#SBATCH", "")
    read = {name for name in (*CLOUD, "RECORDS", "SPOT", "EXTRA_ARGS", "MAX_RESTARTS") if name in shown}
    assert read >= {"ACCELERATOR", "STORAGE", "RECORDS"} if script == "setup_vm.sh" else {"CONFIG", "EXTRA_ARGS"}


def test_the_scripts_know_the_trainers_exit_codes():
    main = ast.parse((ROOT / "avs_jax/main.py").read_text())
    assigned = [node for node in main.body if isinstance(node, ast.Assign)]
    (preempted,) = [node.value.value for node in assigned if node.targets[0].id == "EXIT_PREEMPTED"]
    known = (ROOT / "launch/shared.sh").read_text()
    assert f"\nEXIT_PREEMPTED={preempted} " in known and f"\nEXIT_LOST={processes.EXIT_LOST} " in known


def test_the_container_is_made_of_files_that_are_there_and_ends_in_the_same_line():
    lines = [line.split() for line in (ROOT / "launch/Dockerfile").read_text().splitlines()]
    copied = [source for line in lines if line[:1] == ["COPY"] for source in line[1:-1]]
    assert copied and all((ROOT / source).exists() for source in copied)
    ignored = (ROOT / "launch/Dockerfile.dockerignore").read_text().splitlines()
    assert {f"!{source}" for source in copied} <= set(ignored)
    assert lines[-1] == ["ENTRYPOINT", '["python",', '"-m",', '"avs_jax.main"]']
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"tpu", "cuda"} <= extras.keys() and ["ARG", "EXTRA=tpu"] in lines
