"""Several processes as one: stopped, killed, and started again as another number, a run is the one never disturbed."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from avs_jax.train import feed
from data_pipeline import loader
from tests.integration import tiny

ROOT = pathlib.Path(__file__).parents[2]


def start(records, workdir, *arguments, devices=1):
    """Starts the real command on so many CPU devices; with SGD, since Adam blows up what is rounded otherwise."""
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}",
        "PJRT_NPROC": "16",  # threads: devices that wait for each other must not hold all of them
    }
    command = [
        sys.executable, "-m", "avs_jax.main", "--config", "tests/integration/tiny.py", "--workdir", str(workdir),
        f"--config.data.records={records}", "--config.optimizer.name=sgd", "--config.optimizer.schedule=constant",
        "--config.train.steps=1000", "--config.eval.every_steps=1000", "--config.checkpoint.every_steps=1", *arguments,
    ]  # fmt: skip
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def start_two(records, workdir, *arguments):
    """Two processes with two devices each, over loopback."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    job = (f"--coordinator=localhost:{port}", "--num_processes=2")
    return [start(records, workdir, *job, f"--process_id={i}", *arguments, devices=2) for i in range(2)]


def finish(processes):
    """The exit codes and messages of processes that end by themselves."""
    messages = [process.communicate(timeout=120)[1] for process in processes]
    return [process.returncode for process in processes], messages


def losses(workdir):
    """{step: loss}, of the log that the first process writes."""
    log = workdir / "metrics.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}


def wait_for(step, workdir, processes):
    """Returns when the log has come to `step`."""
    while max(losses(workdir), default=0) < step:
        assert all(process.poll() is None for process in processes), finish(processes)
        time.sleep(0.02)


def saved(workdir):
    """The newest step that is saved."""
    steps = [int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()]
    return max(steps)


def run_to(step, records, workdir, *arguments, devices=1):
    """The losses of a run of one process up to `step`."""
    process = start(records, workdir, *arguments, devices=devices)
    wait_for(step, workdir, [process])
    process.kill()
    process.communicate()
    return {number: loss for number, loss in losses(workdir).items() if number <= step}


class Interrupted(types.SimpleNamespace):
    """What was seen of a run of two processes: one was asked to stop, and in the next life one was killed."""


@pytest.fixture(scope="module")
def interrupted(records, tmp_path_factory):
    seen = Interrupted(workdir=tmp_path_factory.mktemp("two"))
    processes = start_two(records, seen.workdir, "--config.mesh.fsdp=2")
    wait_for(1, seen.workdir, processes)
    processes[1].send_signal(signal.SIGTERM)
    seen.stopped = finish(processes)
    seen.stopped_at = max(losses(seen.workdir)), saved(seen.workdir)

    processes = start_two(records, seen.workdir, "--config.mesh.fsdp=2")
    wait_for(seen.stopped_at[0] + 2, seen.workdir, processes)
    processes[1].kill()
    then = time.monotonic()
    seen.killed = finish(processes)
    seen.seconds = time.monotonic() - then
    return seen


def test_all_processes_stop_at_the_same_step_when_one_is_asked(interrupted):
    codes, messages = interrupted.stopped
    assert codes == [75, 75], messages
    assert interrupted.stopped_at[0] == interrupted.stopped_at[1]
    assert f"asked to stop: step {interrupted.stopped_at[0]} is saved" in messages[0]


def test_a_process_that_dies_takes_the_others_down_soon_and_with_a_word(interrupted):
    codes, messages = interrupted.killed
    assert codes == [6, -signal.SIGKILL], messages
    assert "another task died" in messages[0] or "another one died" in messages[0]
    assert interrupted.seconds < 60


def test_the_run_goes_on_with_one_process_of_four_devices_or_of_one(interrupted, records, tmp_path):
    last = max(losses(interrupted.workdir)) + 2
    expected = run_to(last, records, tmp_path / "undisturbed")
    for devices in (4, 1):
        workdir = tmp_path / str(devices)
        shutil.copytree(interrupted.workdir, workdir)
        found = run_to(last, records, workdir, devices=devices)
        assert list(found) == list(range(1, last + 1))
        np.testing.assert_allclose(list(found.values()), list(expected.values()), atol=1e-5)


def test_an_epoch_is_seen_once_whatever_number_of_processes_goes_on(records, monkeypatch):
    config = tiny.get_config()
    seen, state = [], None
    for count in (2, 4, 1):
        states = []
        for index in range(count):
            shard = types.SimpleNamespace(shard_index=index, shard_count=count, drop_remainder=False)
            monkeypatch.setattr(loader.grain.sharding, "ShardByJaxProcess", lambda shard=shard: shard)
            part = loader.train_batches(records, "train", feed.options(config, training=True))
            if state is not None:
                part.set_state(state)
            seen += next(part)["clip_index"].tolist()
            states.append(part.get_state())
            part.close()
        assert all(each == states[0] for each in states)
        state = states[0]
    assert sorted(seen) == list(range(12))
