"""Joining processes: what is refused, and what a process that lost another one ends with."""

import os
import subprocess
import sys

import jax
import pytest

from avs_jax.parallel import processes


@pytest.fixture
def joined(monkeypatch):
    """The arguments with which JAX is told to join processes."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *given, **named: calls.append((given, named)))
    monkeypatch.setattr(processes, "_abort_with_a_code", lambda: None)
    return calls


def test_flags_say_who_is_there(joined):
    processes.initialize("node7:1234", 4, 2)
    ((given, named),) = joined
    assert given == ("node7:1234", 4, 2)
    assert named["cluster_detection_method"] == "deactivate"
    assert named["heartbeat_timeout_seconds"] < 60


def test_a_cluster_is_found_without_flags(joined):
    processes.initialize()
    ((given, named),) = joined
    assert given == () and "cluster_detection_method" not in named


def test_a_job_of_one_slurm_task_stays_alone(joined, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "1")
    processes.initialize()
    assert not joined


def test_another_error_of_a_cluster_is_not_hidden(monkeypatch):
    def fail(**_):
        raise ValueError("SLURM_PROCID is no number")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(ValueError, match="SLURM_PROCID"):
        processes.initialize()


@pytest.mark.parametrize(
    "given, message",
    [
        (("node7:1234", None, None), "give all three, or none of them"),
        (("node7", 2, 0), "--coordinator=node7: HOST:PORT of process 0"),
        (("node7:1234", 2, 2), "--process_id=2: from 0 to 1 with 2 processes"),
    ],
)
def test_flags_that_contradict_each_other_are_an_error(joined, given, message):
    with pytest.raises(processes.ProcessError, match=message):
        processes.initialize(*given)
    assert not joined


def test_an_error_of_the_runtime_means_that_another_process_was_lost(capsys):
    assert processes.exit_code(jax.errors.JaxRuntimeError("connection closed by peer")) == processes.EXIT_LOST == 6
    assert "most likely another one died" in capsys.readouterr().err
    assert processes.exit_code(KeyError("frames")) == 1
    assert processes.leave(2) == 2  # of one process alone, which ends in its own time


def test_without_a_cluster_a_process_stays_alone_and_an_abort_in_a_job_has_the_same_code():
    code = (
        "import jax, os; from avs_jax.parallel import processes; processes.initialize(); "
        "assert not jax.distributed.is_initialized(); processes._abort_with_a_code(); os.abort()"
    )
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "OMPI_", "KUBER"))}
    done = subprocess.run([sys.executable, "-c", code], env=outside, capture_output=True, text=True)
    assert done.returncode == processes.EXIT_LOST, done.stderr
