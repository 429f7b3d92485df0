"""Comparisons of runs: what is trained, what is left alone, and the table."""

import json

import pytest

from avs_jax import compare


def results(true, silence):
    return {
        "step": 6,
        "true": {"clip": {"J": true, "F": true + 0.1}, "dataset": {"J": 0.0, "F": 0.0}},
        "silence": {"clip": {"J": silence, "F": silence + 0.1}},
        "drop": {"silence": {"clip": true - silence}},
        "split": "test",
    }


def test_a_table_gives_means_and_sample_deviations():
    """Of 0.5, 0.6, 0.7: mean 0.6, deviation sqrt(0.02 / 2) = 0.1."""
    found = {"a": [results(x, 0.2) for x in (0.5, 0.6, 0.7)], "b": [results(0.25, 0.0)]}
    assert compare.table(found).splitlines() == [
        "| run | seeds | J, true | F, true | J, silence | F, silence |",
        "|---|---|---|---|---|---|",
        "| a | 3 | 0.600 ± 0.100 | 0.700 ± 0.100 | 0.200 ± 0.000 | 0.300 ± 0.000 |",
        "| b | 1 | 0.250 ± 0.000 | 0.350 ± 0.000 | 0.000 ± 0.000 | 0.100 ± 0.000 |",
    ]


@pytest.fixture
def trained(monkeypatch):
    """The commands that were started, in place of runs that leave results."""
    started = []

    def run(command):
        started.append(command)
        arguments = dict(zip(command[3:7:2], command[4:8:2], strict=True))
        if "--fail" in command:
            return compare.subprocess.CompletedProcess(command, 2)
        workdir = compare.pathlib.Path(arguments["--workdir"])
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "results.json").write_text(json.dumps(results(0.5, 0.1)))
        return compare.subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(compare.subprocess, "run", run)
    return started


def test_every_run_is_trained_with_every_seed_once(trained, tmp_path, capsys):
    line = ["--config", "c.py", "--workdir", str(tmp_path), "--seeds", "2", "--run", "a", "--run", "b --config.x='1 2'"]
    assert compare.main(line) == 0
    assert [command[4:] for command in trained] == [
        ["c.py", "--workdir", str(tmp_path / name / seed), f"--config.seed={seed}", *more]
        for name, more in (("a", []), ("b", ["--config.x=1 2"]))
        for seed in ("0", "1")
    ]
    assert (tmp_path / "table.md").read_text() == capsys.readouterr().out
    (tmp_path / "a" / "1" / "results.json").write_text(json.dumps({"split": "val"}))  # not at its end
    assert compare.main(line) == 0
    assert len(trained) == 5


def test_a_run_that_fails_ends_the_comparison(trained, tmp_path):
    assert compare.main(["--config", "c.py", "--workdir", str(tmp_path), "--run", "a --fail", "--run", "b"]) == 2
    assert len(trained) == 1
