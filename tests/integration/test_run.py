"""Whole runs of the real command at the smallest sizes: results, restarts, preemption, kills, errors."""

import csv
import json
import pathlib
import signal
import subprocess
import sys
import time

import jax
import pytest

from avs_jax import convert, models
from avs_jax.parallel import mesh as meshes
from avs_jax.train import checkpoint, demo_data, feed, loop, optimizer
from avs_jax.train import state as states
from data_pipeline import loader, torch_file
from tests.faults.life import logged
from tests.integration import tiny

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def config(tiny_config, records):
    tiny_config.data.records = records
    return tiny_config


def command(records, workdir, *arguments, config="tiny"):
    return [
        sys.executable, "-m", "avs_jax.main", "--config", f"tests/integration/{config}.py", "--workdir", str(workdir),
        f"--config.data.records={records}", *arguments,
    ]  # fmt: skip


def run(records, workdir, *arguments, config="tiny"):
    line = command(records, workdir, *arguments, config=config)
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True)


def newest(workdir):
    """Every array of the newest checkpoint, as bytes by name."""
    checkpoints = checkpoint.Checkpoints(workdir / "checkpoints", 2, 1, "clip/J")
    meta = checkpoints.meta()
    checkpoints.close()
    return meta["step"], meta["arrays"]


@pytest.fixture(scope="module")
def unbroken(records, tmp_path_factory):
    """A run that nobody disturbs, by the command line."""
    workdir = tmp_path_factory.mktemp("unbroken")
    done = run(records, workdir, "--config.train.steps=12")
    assert done.returncode == 0, done.stderr
    return workdir, done


def test_a_run_leaves_everything(unbroken, records):
    workdir, done = unbroken
    results = json.loads((workdir / "results.json").read_text())
    assert results["split"] == "test"
    assert set(results["true"]) == set(results["silence"]) == {"clip", "avsbench", "dataset"}
    assert 0 <= results["true"]["clip"]["J"] <= 1
    assert results["drop"]["silence"]["clip"] == results["true"]["clip"]["J"] - results["silence"]["clip"]["J"]
    with (workdir / "clips.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["clip"] for row in rows if row["audio"] == "true"] == loader.clip_names(records, "test")
    assert {path.name for path in (workdir / "pictures").iterdir()} == {"best_1.png", "worst_1.png"}
    assert list((workdir / "tensorboard").glob("events*"))
    assert logged(workdir) == list(range(1, 13))
    assert "clip" in done.stderr
    assert "training step compiled in" in done.stderr


def test_vct_goes_on_bit_for_bit(records, tmp_path):
    """Its random groups and points too: killed, then started again, it ends as a run that nobody disturbs."""
    settings = ("--config.train.steps=6", "--config.eval.every_steps=6", "--config.eval.pictures=0")
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen(
        command(records, killed, *settings, config="tiny_vct"),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    log = killed / "metrics.jsonl"
    while process.poll() is None and not (log.exists() and '"step": 4' in log.read_text()):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    for workdir in (killed, whole):
        done = run(records, workdir, *settings, config="tiny_vct")
        assert done.returncode == 0, done.stderr
        assert logged(workdir) == list(range(1, 7))
    assert newest(killed) == newest(whole)


def test_asked_to_stop_it_saves_and_goes_on(unbroken, records, tmp_path):
    process = subprocess.Popen(
        command(records, tmp_path, "--config.train.steps=12"),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    log = tmp_path / "metrics.jsonl"
    while not (log.exists() and '"step": 3' in log.read_text()):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75
    step, _ = newest(tmp_path)
    assert 3 <= step < 12
    assert run(records, tmp_path, "--config.train.steps=12").returncode == 0
    assert newest(tmp_path) == newest(unbroken[0])


def test_more_steps_go_on_where_a_finished_run_ended(config, tmp_path):
    config.optimizer.schedule = "constant"
    config.train.steps = 2
    assert loop.train(config, tmp_path / "a")
    config.train.steps = 4
    assert loop.train(config, tmp_path / "a")
    assert loop.train(config, tmp_path / "b")
    assert newest(tmp_path / "a") == newest(tmp_path / "b")


def test_eval_mode_measures_the_best_step(unbroken, records):
    workdir, _ = unbroken
    before = json.loads((workdir / "results.json").read_text())
    done = run(records, workdir, "--mode", "eval", "--config.eval.audio=silence,swap")
    assert done.returncode == 0, done.stderr
    after = json.loads((workdir / "results.json").read_text())
    assert after["true"] == before["true"]
    assert "swap" in after
    (workdir / "results.json").write_text(json.dumps(before))


def test_weights_go_to_a_pytorch_file_and_back(unbroken, config, tmp_path):
    """The best step, written as the authors' file would be, is measured the same from that file."""
    workdir, _ = unbroken
    mesh, model = meshes.create(), models.create(config.model)
    init = states.init_fn(model, optimizer.create(config.optimizer, 1, {}), feed.example_batch(config), 0, ema=False)
    shapes = states.abstract(init, mesh)
    checkpoints = checkpoint.Checkpoints(workdir / "checkpoints", 2, 1, "clip/J")
    items, _ = checkpoints.restore({"weights": shapes.items()["weights"]}, best=True)
    checkpoints.close()
    variables = jax.device_get(shapes.with_items(items).variables())
    torch_file.save(tmp_path / "model.pth", convert.to_torch(variables, config.model))

    config.init_from.model = str(tmp_path / "model.pth")
    loop.evaluate(config, tmp_path / "eval", config.data.test_split)
    found = json.loads((tmp_path / "eval" / "results.json").read_text())
    assert found["true"] == json.loads((workdir / "results.json").read_text())["true"]


def test_batch_norm_and_parameters_that_are_frozen_first(config, tmp_path):
    """The backbone's parameters stay as they were made for two steps; then they train."""
    config.optimizer.freeze.backbone = 0.67  # of an epoch of three steps
    config.checkpoint.update(every_steps=1, keep_latest=9)
    config.train.steps = 4
    assert loop.train(config, tmp_path)
    checkpoints = checkpoint.Checkpoints(tmp_path / "checkpoints", 9, 1, "clip/J")
    sums = {step: checkpoints.meta(step)["arrays"]["weights"] for step in (1, 2, 3)}

    def backbone(step, kind):
        return {name: value for name, value in sums[step].items() if kind in name and "['backbone']" in name}

    assert backbone(1, "['params']") == backbone(2, "['params']") != backbone(3, "['params']")
    assert backbone(1, "batch_stats") != backbone(2, "batch_stats")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--config.model.variant=new"], "config.model.variant='new'"),
        (["--config.train.batch_sise=3"], "Did you mean"),
        (
            ["--config.optimizer.learning_rate=0.5", "--config.train.steps=12"],
            "config.optimizer.learning_rate: 0.01 there",
        ),
        (["--config.init_from=missing.pth", "--mode", "eval"], "missing.pth"),
    ],
)
def test_bad_input_is_one_clear_error(unbroken, records, arguments, message):
    workdir, _ = unbroken
    before = sorted((path, path.stat().st_mtime_ns) for path in workdir.rglob("*") if path.is_file())
    done = run(records, workdir, *arguments)
    assert done.returncode != 0
    assert message in done.stderr
    after = sorted((path, path.stat().st_mtime_ns) for path in workdir.rglob("*") if path.is_file())
    kept = {str(path) for path, _ in before}
    assert kept <= {str(path) for path, _ in after}


def test_records_that_are_not_there_are_named(tmp_path):
    config = tiny.get_config().unlock()
    config.data.synthetic.update(train=0, val=0, test=0)
    config.data.records = str(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"nowhere.*python -m data_pipeline.convert --dataset s4"):
        demo_data.ensure_records(config)


def test_a_run_does_not_depend_on_the_number_of_loader_workers(config, tmp_path):
    config.train.steps = 2
    assert loop.train(config, tmp_path / "none")
    config.data.workers = 2
    assert loop.train(config, tmp_path / "two")
    assert newest(tmp_path / "none") == newest(tmp_path / "two")
