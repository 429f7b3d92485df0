"""The command itself, from a configuration to tables and JSON."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = ROOT / "tests/integration/tiny.py"


# The command, and what JAX's cache of programs has said meanwhile.
WATCHED = """
import atexit, json, os, runpy, jax
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event.rpartition("/")[2]))
atexit.register(lambda: open(os.environ["EVENTS"], "w").write(json.dumps(events)))
runpy.run_module("avs_jax.benchmark", run_name="__main__", alter_sys=True)
"""


def run(*arguments, start=("-m", "avs_jax.benchmark"), **environment):
    command = [sys.executable, *start, "--config", str(CONFIG), "--seconds=0", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )


def test_measurements_are_printed_and_written(tmp_path):
    events, shared = tmp_path / "events.json", tmp_path / "shared"
    done = run(
        *("--components=model,decoder", "--modes=predict", "--rounds=1", f"--json={tmp_path / 'a.json'}"),
        start=("-c", WATCHED),
        EVENTS=str(events),
        JAX_COMPILATION_CACHE_DIR=str(shared),
    )
    assert done.returncode == 0, done.stderr
    # Cold: what other runs have compiled is not looked for. Warm: out of a cache.
    assert not shared.exists() and {"cache_misses", "cache_hits"} <= set(json.loads(events.read_text()))
    found = json.loads((tmp_path / "a.json").read_text())
    assert [(r["component"], r["mode"]) for r in found["results"]] == [("model", "predict")]  # a part does not predict
    for result in found["results"]:
        assert result["frames"] == 10
        assert result["ms_per_frame"] == 1e3 * result["seconds"]["wall"] / 10
        assert 0 < result["mfu"] < 1
        assert result["gflop_per_frame"] > 0
        made = result["compilation"]
        assert made["instructions"] > 100
        assert made["peak_bytes"] > made["temporary_bytes"] > 0
        assert made["cold_seconds"] > 0 and made["warm_seconds"] > 0
    assert found["machine"]["versions"]["jax"] and found["ceiling"]["flops_per_second"] > 1e9
    assert "| model     | predict |" in done.stdout


def test_a_sweep_is_fitted_and_drawn(tmp_path):
    plot, written = tmp_path / "a.svg", tmp_path / "a.json"
    done = run("--sweep=batch", "--values=1,2", "--modes=forward", f"--plot={plot}", f"--json={written}")
    assert done.returncode == 0, done.stderr
    found = json.loads(written.read_text())
    assert found["values"] == [1, 2]
    assert found["fits"]["peak_bytes"]["slope"] > 0
    assert plot.read_text().startswith("<svg")


def test_a_wrong_name_is_refused_in_one_line():
    done = run("--components=encoderr")
    assert done.returncode == 1
    assert "--components=encoderr: one of model, backbone" in done.stderr
