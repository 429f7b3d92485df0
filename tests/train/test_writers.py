"""Metric writers: what is read back, and runs that are killed and resumed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from avs_jax.train import writers


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def events(workdir):
    accumulator = EventAccumulator(str(workdir / "tensorboard"))
    accumulator.Reload()
    return accumulator


def scalar(workdir, name):
    return {event.step: event.value for event in events(workdir).Scalars(name)}


def test_what_is_written_is_read_back(tmp_path):
    writer = writers.create_writers(tmp_path)
    writer.scalars(1, {"train/loss": np.float32(0.5), "train/rate": 1e-3})
    writer.scalars(2, {"train/loss": float("nan")})
    writer.text(2, {"config": "a: 1"})
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    writer.images(2, {"clips/best": image})
    writer.close()
    assert lines(tmp_path) == [
        {"step": 1, "train/loss": 0.5, "train/rate": 1e-3},
        {"step": 2, "train/loss": None},
        {"step": 2, "config": "a: 1"},
    ]
    assert scalar(tmp_path, "train/rate") == {1: pytest.approx(1e-3)}
    shown = events(tmp_path).Images("clips/best")
    assert [(image.step, image.width, image.height) for image in shown] == [(2, 4, 4)]


def test_a_resumed_run_reads_as_one(tmp_path):
    for start, end in ((0, 5), (3, 7)):  # killed after step 5 without closing, its last checkpoint at step 3
        writer = writers.create_writers(tmp_path)
        writer.rewind(start)
        for step in range(start + 1, end + 1):
            writer.scalars(step, {"loss": step + 10 * start})
    expected = {1: 1, 2: 2, 3: 3, 4: 34, 5: 35, 6: 36, 7: 37}
    assert {line["step"]: line["loss"] for line in lines(tmp_path)} == expected
    assert len(lines(tmp_path)) == 7
    assert scalar(tmp_path, "loss") == expected


def test_a_line_torn_by_a_kill_is_dropped(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "lo{"step": 0}\n{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    writer = writers.create_writers(tmp_path)
    writer.scalars(2, {"loss": 1.0})
    writer.close()
    assert lines(tmp_path) == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]


def test_figures_are_on_disk_at_once(tmp_path):
    writer = writers.create_writers(tmp_path)
    writer.scalars(1, {"loss": 2.0})
    assert lines(tmp_path) == [{"step": 1, "loss": 2.0}]
    assert scalar(tmp_path, "loss") == {1: 2.0}
    writer.close()


def test_other_processes_write_nothing(tmp_path):
    writer = writers.create_writers(tmp_path, primary=False)
    writer.rewind(0)
    writer.scalars(1, {"loss": 1.0})
    writer.images(1, {"clip": np.zeros((2, 2, 3), np.uint8)})
    writer.text(1, {"config": ""})
    writer.flush()
    writer.close()
    assert not list(tmp_path.iterdir())


def test_a_file_is_replaced_whole(tmp_path):
    writers.write_text(tmp_path / "results.json", "old")
    writers.write_text(tmp_path / "results.json", "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("results.json", "new")]
