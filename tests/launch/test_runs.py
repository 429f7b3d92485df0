"""The launch scripts at work against stand-ins: what they call in which order, and what they do when a machine goes."""

import json
import os
import shutil
import signal
import subprocess
import time

import pytest

from tests.launch.conftest import CLOUD, ROOT

DISCONNECTED, PREEMPTED, LOST = 255, 75, 6
CREATE = ["create", "scp", "ssh", "ssh"]  # a new machine: the code goes there, is installed, trains
TPU, QUEUE = "tpu_vm.sh", "queued_resource.sh"


def verbs(launcher):
    """The calls without those that only look: the last word of each."""
    return [name.split()[-1] for name, _ in launcher.calls() if not name.endswith("describe")]


def states(*found):
    return [[0 if state else 1, state] for state in found]


@pytest.fixture
def clone(launcher):
    """A small clone, so that the archive of the code is made at once."""
    launcher.root = launcher.folder / "my clone"
    shutil.copytree(ROOT / "launch", launcher.root / "launch")
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a", "commit", "-qm", "a"]):
        subprocess.run(["git", *command], cwd=launcher.root, check=True)
    return launcher


def test_a_machine_is_made_installed_and_trained_on(clone):
    done = clone(TPU, answers={"tpu-vm describe": states("", "CREATING", "READY")}, SPOT=1)
    assert done.returncode == 0, done.stderr
    assert verbs(clone) == CREATE
    made, copied, installed, trained = (call for name, call in clone.calls() if not name.endswith("describe"))
    where = {"project": "my-project", "zone": "us-west4-a"}
    kind = {"accelerator_type": "v5litepod-8", "version": "v2-alpha-tpuv5-lite", "spot": True}
    assert made == {**where, **kind, "words": ["avs"]}
    archive = str(clone.root / "build/avs_jax.tar.gz")
    assert copied == {**where, "worker": "all", "words": [archive, "avs:avs_jax.tar.gz"]}
    assert {installed["worker"], trained["worker"]} == {"all"}
    assert "launch/setup_vm.sh" in installed["command"] and "python -m avs_jax.main" in trained["command"]
    assert "launch/tpu.sh" in subprocess.run(["tar", "-tzf", archive], capture_output=True, text=True).stdout
    assert "the machine is still there and is paid for: gcloud compute tpus tpu-vm delete avs" in done.stderr


def test_a_machine_that_is_there_is_used(clone):
    assert clone(TPU, answers={"tpu-vm describe": states("READY")}).returncode == 0
    assert verbs(clone) == ["scp", "ssh", "ssh"]


@pytest.mark.parametrize("code", [PREEMPTED, LOST, DISCONNECTED])
def test_a_run_that_was_stopped_or_lost_goes_on_where_it_was(clone, code):
    answers = {"tpu-vm describe": states("READY"), "tpu-vm ssh": [[0, ""], [code, ""], [code, ""], [0, ""]]}
    done = clone(TPU, answers=answers)
    assert done.returncode == 0 and verbs(clone) == ["scp", *["ssh"] * 4]
    assert "restart 2 of at most 30" in done.stderr


@pytest.mark.parametrize("during", ["installation", "training"])
def test_a_machine_that_was_taken_away_is_made_anew(clone, during):
    ssh = [[0, ""]] * (during == "training") + [[DISCONNECTED, ""], [0, ""]]
    answers = {"tpu-vm describe": states("READY", "PREEMPTED", "PREEMPTED", "", "READY"), "tpu-vm ssh": ssh}
    done = clone(TPU, answers=answers)
    assert done.returncode == 0, done.stderr
    assert verbs(clone) == ["scp", *["ssh"] * (len(ssh) - 1), "delete", *CREATE]
    assert "the machine was taken away (state: PREEMPTED)" in done.stderr


@pytest.mark.parametrize(
    ("script", "kind", "found"),
    [
        (TPU, "tpu-vm describe", ("READY", "READY", "PREEMPTED", "", "READY")),
        (QUEUE, "queued-resources describe", ("ACTIVE", "ACTIVE", "SUSPENDED", "", "ACTIVE")),
    ],
)
def test_a_run_that_saved_before_its_machine_went_is_installed_anew(clone, script, kind, found):
    """The trainer's code arrives while the machine still looks as if it were there."""
    answers = {kind: states(*found), "tpu-vm ssh": [[0, ""], [PREEMPTED, ""], [0, ""]]}
    assert clone(script, answers=answers).returncode == 0
    assert verbs(clone) == ["scp", "ssh", "ssh", "delete", *CREATE]


def test_a_machine_that_is_not_to_be_had_again_at_once_is_asked_for_again(clone):
    answers = {
        "tpu-vm describe": states("READY", "", "", "", "", "READY"),
        "tpu-vm ssh": [[0, ""], [DISCONNECTED, ""], [0, ""]],
        "tpu-vm create": [[1, "no capacity"], [0, ""]],
    }
    assert clone(TPU, answers=answers).returncode == 0
    assert verbs(clone) == ["scp", "ssh", "ssh", "create", *CREATE]


@pytest.mark.parametrize("code", [1, 2, 134])
def test_a_run_that_failed_is_not_started_again(clone, code):
    done = clone(TPU, answers={"tpu-vm describe": states("READY"), "tpu-vm ssh": [[0, ""], [code, ""]]})
    assert done.returncode == code and verbs(clone) == ["scp", "ssh", "ssh"]
    assert f"failed with exit code {code}; the machine is still there and is paid for" in done.stderr


def test_a_first_machine_that_is_not_to_be_had_is_an_error(clone):
    done = clone(TPU, answers={"tpu-vm describe": states(""), "tpu-vm create": [[1, ""]]})
    assert done.returncode == 2 and verbs(clone) == ["create"]
    assert "launch/queued_resource.sh waits until there is a machine" in done.stderr


def test_restarts_have_an_end(clone):
    answers = {"tpu-vm describe": states("READY"), "tpu-vm ssh": [[0, ""], [PREEMPTED, ""]]}
    done = clone(TPU, answers=answers, MAX_RESTARTS=2)
    assert done.returncode == 2 and verbs(clone) == ["scp", *["ssh"] * 4]
    assert "error: given up after MAX_RESTARTS=2 restarts" in done.stderr


def test_the_queue_is_waited_for(clone):
    queue = states("", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
    done = clone(QUEUE, answers={"queued-resources describe": queue}, SPOT=1)
    assert done.returncode == 0 and verbs(clone) == CREATE
    made = next(call for name, call in clone.calls() if name == "queued-resources create")
    assert made["node_id"] == "avs" and made["runtime_version"] == "v2-alpha-tpuv5-lite" and made["spot"]


def test_a_preempted_request_is_put_into_the_queue_again(clone):
    queue = states("ACTIVE", "SUSPENDING", "SUSPENDING", "SUSPENDED", "", "WAITING_FOR_RESOURCES", "ACTIVE")
    answers = {"queued-resources describe": queue, "tpu-vm ssh": [[0, ""], [DISCONNECTED, ""], [0, ""]]}
    done = clone(QUEUE, answers=answers)
    assert done.returncode == 0, done.stderr
    assert verbs(clone) == ["scp", "ssh", "ssh", "delete", *CREATE]
    assert next(call for name, call in clone.calls() if name == "queued-resources delete")["force"]


def test_a_request_that_cannot_be_met_is_an_error(clone):
    done = clone(QUEUE, answers={"queued-resources describe": states("", "FAILED")})
    assert done.returncode == 2 and verbs(clone) == ["create"]
    assert "error: the request avs has FAILED" in done.stderr


def test_xpk_gets_the_exit_code_of_a_preemption_and_the_end_is_waited_for(launcher):
    done = launcher("xpk.sh", answers={"get": [[0, ""], [0, "Completed"]]}, WAIT=1, BUILD=1, SLICES=2)
    assert done.returncode == 0, done.stderr
    assert [name for name, _ in launcher.calls()] == ["build", "push", "workload create", "get", "get"]
    submitted = launcher.calls()[2][1]
    assert submitted["restart_on_exit_codes"] == f"{PREEMPTED},{LOST}" and submitted["num_slices"] == "2"
    assert submitted["command"].startswith("exec python -m avs_jax.main --config configs/s4.py")
    assert launcher("xpk.sh", answers={"get": [[0, "Failed"]]}, WAIT=1).returncode == 2


@pytest.mark.parametrize(
    ("code", "restarts", "calls", "result"),
    [
        (0, 0, ["srun"], 0),
        (1, 0, ["srun"], 1),
        (PREEMPTED, 0, ["srun", "requeue"], 0),
        (LOST, 29, ["srun", "requeue"], 0),
        (PREEMPTED, 30, ["srun"], 2),
    ],
)
def test_slurm_puts_a_stopped_run_back_into_the_queue(clone, code, restarts, calls, result):
    python = clone.root / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.touch(mode=0o755)
    job = {"SLURM_JOB_ID": 7, "SLURM_SUBMIT_DIR": clone.root, "SLURM_RESTART_COUNT": restarts}
    done = clone("slurm.sbatch", answers={"srun": [[code, ""]]}, **job)
    assert done.returncode == result, done.stderr
    assert verbs(clone) == calls
    assert clone.calls()[0][1]["words"][:3] == ["python", "-m", "avs_jax.main"]


SAY = """#!/bin/bash
printf '%s\\0' "$PWD" "$@" >>"$STUB/said"
exit 0
"""
MAKES_ENVIRONMENTS = """#!/bin/bash
[ "$1" = -c ] && exit 0
mkdir -p .venv/bin && cp "$STUB/bin/say" .venv/bin/python
printf 'PATH=$PWD/.venv/bin:$PATH\\n' >.venv/bin/activate
"""


def test_on_the_machine_everything_runs_as_sent(clone):
    """The code is unpacked, installed and started by the very commands that ssh gets; only Python is a stand-in."""
    clone.program("say", SAY)
    clone.program("python3.13", MAKES_ENVIRONMENTS)
    (clone.folder / "remote").mkdir()
    (clone.folder / "build").symlink_to(clone.root / "build")  # what scp does
    (clone.folder / "remote/avs_jax.tar.gz").symlink_to(clone.root / "build/avs_jax.tar.gz")
    extra = "--config.eval.audio='silence, swap'"
    done = clone(
        TPU, answers={"tpu-vm describe": states("READY")}, STORAGE="", WORKDIR="my runs/it's", EXTRA_ARGS=extra
    )
    assert done.returncode == 0, done.stderr
    home = str(clone.folder / "remote/avs_jax")
    pip = [home, "-m", "pip", "install", "--quiet", "--upgrade", "--editable", ".[tpu]"]
    line = [home, "-m", "avs_jax.main", "--config", CLOUD["CONFIG"], "--workdir", "my runs/it's"]
    assert (clone.folder / "said").read_text().split("\0")[:-1] == [*pip, *line, "--config.eval.audio=silence, swap"]


@pytest.mark.parametrize(
    ("storage", "last"),
    [
        ("gs://bucket", "gcsfuse --implicit-dirs bucket /mnt/storage"),
        ("10.0.0.2:/share", "sudo mount -t nfs 10.0.0.2:/share /mnt/storage"),
    ],
)
def test_storage_is_mounted(launcher, storage, last):
    done = launcher("setup_vm.sh", "--dry-run", STORAGE=storage)
    assert done.stdout.splitlines()[-1] == last


def test_an_old_python_is_passed_over(launcher):
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        launcher.program(name, '#!/bin/bash\n[ "$1" != -c ]\n')
    shutil.copytree(ROOT / "launch", launcher.folder / "clone/launch")
    launcher.root = launcher.folder / "clone"
    lines = launcher("setup_vm.sh", "--dry-run", STORAGE="").stdout.splitlines()
    assert lines[:2] == ["python3 -m pip install --user uv", "python3 -m uv venv --python 3.12 --seed .venv"]


TRAINER = """trap 'echo saved >>"$1"; exit 75' TERM; echo "started $$" >>"$1"; while :; do sleep 0.02; done"""


def test_a_trainer_that_was_left_behind_saves_before_the_next_starts(clone):
    log = clone.folder / "log"
    command = ["bash", clone.root / "launch/alone.sh", "bash", "-c", TRAINER, "trainer", str(log)]

    def started(number):
        while not log.exists() or log.read_text().count("started") < number:
            time.sleep(0.01)

    first = subprocess.Popen(command)
    started(1)
    second = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    started(2)
    assert first.wait() == PREEMPTED
    assert [line.split()[0] for line in log.read_text().splitlines()] == ["started", "saved", "started"]
    second.send_signal(signal.SIGTERM)
    assert "stopping the trainer that is still running here" in second.communicate()[1]

    stubborn = [*command[:4], "trap '' TERM; echo started >>$0; sleep 5 & wait; sleep 5", str(log)]
    third = subprocess.Popen(stubborn, start_new_session=True)
    started(3)
    late = subprocess.run(command, env=os.environ | {"PATIENCE_SECONDS": "0"}, capture_output=True, text=True)
    os.killpg(third.pid, signal.SIGKILL)
    third.wait()
    assert late.returncode == 2 and f"the trainer {third.pid} has not stopped in 0 s" in late.stderr


def test_calls_are_kept_as_json(launcher):
    """The stand-in itself: an argument that the real program does not know is refused."""
    gcloud = launcher.folder / "bin/gcloud"
    command = [gcloud, "compute", "tpus", "tpu-vm", "create", "avs", "--zone=a"]
    environment = os.environ | {"STUB": str(launcher.folder)}
    assert subprocess.run(command, env=environment).returncode == 0
    assert json.loads((launcher.folder / "calls.jsonl").read_text()) == [
        "tpu-vm create",
        {"zone": "a", "words": ["avs"]},
    ]
    wrong = subprocess.run([*command, "--acelerator-type=v4-8"], env=environment, capture_output=True)
    assert wrong.returncode == 2
