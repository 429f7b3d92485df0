"""Evaluation from batches to files, in one process and in two."""

from __future__ import annotations

import csv
import json
import os
import socket
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from avs_jax import metrics
from avs_jax.train import evaluate, gallery

PROTOCOLS = {"clip": {}, "avsbench": {"batch_size": 2}, "dataset": {}}


def split(clips=7, frames=2, size=8, classes=1, seed=0):
    """Arrays of a whole split; a clip's brightness gives its object away."""
    rng = np.random.default_rng(seed)
    masks = rng.integers(0, max(2, classes), (clips, frames, size, size)).astype(np.uint8)
    noise = rng.integers(0, 120, (clips, frames, size, size, 3))
    images = np.clip(masks[..., None] * 100.0 + noise, 0, 255).astype(np.uint8)
    valid = rng.random((clips, frames)) < 0.8
    valid[:, 0] = True
    return {
        "frames": images,
        "masks": masks,
        "mask_valid": valid,
        "log_mel": np.zeros((clips, frames, 96, 64), np.float32),
        "clip_index": np.arange(clips, dtype=np.int32),
    }


def batches(arrays, batch_size):
    """Batches of one shape; the last is filled up with the first clips, which are not to count twice."""
    number = len(arrays["masks"])
    for start in range(0, number, batch_size):
        index = np.arange(start, start + batch_size)
        batch = {name: array[index % number] for name, array in arrays.items()}
        yield {name: jnp.asarray(array) for name, array in batch.items()} | {"clip_valid": jnp.asarray(index < number)}


def brightness(variables, batch):
    """Scores of one class that need no model."""
    return jax.nn.sigmoid((batch["frames"].astype(jnp.float32).mean(-1, keepdims=True) - variables["level"]) / 20)


LEVEL = {"level": jnp.float32(100)}


def expected_statistics(arrays, level=100.0):
    scores = brightness({"level": jnp.float32(level)}, {"frames": jnp.asarray(arrays["frames"])})
    return metrics.create("clip").update(scores, arrays["masks"], arrays["mask_valid"]).statistics


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_counts_do_not_depend_on_the_batches(batch_size):
    arrays = split()
    step = evaluate.counting_step(brightness)
    found = evaluate.evaluate(step, LEVEL, batches(arrays, batch_size), num_classes=1, num_frames=2)
    expected = expected_statistics(arrays)
    np.testing.assert_array_equal(found.clip_index, np.arange(7))
    np.testing.assert_array_equal(found.counts, expected.counts)
    assert found.compute("avsbench", batch_size=2) == expected.compute("avsbench", batch_size=2)


def test_masks_of_another_size_are_pillows_nearest_and_come_back():
    masks = np.random.default_rng(0).integers(0, 71, (1, 2, 224, 224)).astype(np.uint8)
    larger = np.asarray(evaluate.nearest(jnp.asarray(masks), (384, 384)))
    expected = Image.fromarray(masks[0, 1]).resize((384, 384), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(larger[0, 1], expected)
    np.testing.assert_array_equal(evaluate.nearest(jnp.asarray(larger), (224, 224)), masks)


def test_scores_of_another_size_are_compared_with_masks_of_that_size():
    """Every pixel of a mask four times: the same J, and labels of the image's size for pictures."""
    arrays = split()
    large = arrays | {"masks": arrays["masks"].repeat(2, -1).repeat(2, -2)}
    assert {name: x.shape for name, x in large.items() if name != "masks"} == {
        name: x.shape for name, x in arrays.items() if name != "masks"
    }
    shown = gallery.Gallery(1)
    found = evaluate.evaluate(
        evaluate.counting_step(brightness), LEVEL, batches(large, 4), num_classes=1, num_frames=2, gallery=shown
    )
    np.testing.assert_array_equal(found.counts, expected_statistics(arrays).counts)
    assert next(iter(shown.examples.values())).prediction.shape[1:] == large["masks"].shape[2:]


TWO_PROCESSES = """
import json, runpy, sys
import jax, numpy as np
jax.config.update("jax_cpu_collectives_implementation", "gloo")
process = int(sys.argv[1])
jax.distributed.initialize(f"localhost:{sys.argv[2]}", 2, process, cluster_detection_method="deactivate")
from avs_jax.parallel import mesh as meshes
from avs_jax.train import evaluate, gallery

helpers = runpy.run_path(sys.argv[3])
arrays, brightness, mesh = helpers["split"](), helpers["brightness"], meshes.create()
variables = jax.device_put({"level": np.float32(100)}, meshes.replicated(mesh))

def local():
    for start in range(0, 7, 4):
        rows = np.arange(start + 2 * process, start + 2 * process + 2)
        batch = {name: array[rows % 7] for name, array in arrays.items()} | {"clip_valid": rows < 7}
        yield meshes.put_batch(batch, mesh)

shown = gallery.Gallery(2)
step = evaluate.counting_step(brightness)
statistics = evaluate.evaluate(step, variables, local(), num_classes=1, num_frames=2, gallery=shown)
figures = {name: statistics.compute(name) for name in ("clip", "avsbench", "dataset")}
figures["pixels"] = {str(index): int(example.prediction.sum()) for index, example in sorted(shown.examples.items())}
print(json.dumps(figures))
"""


def test_two_processes_find_what_one_finds():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "XLA_FLAGS": ""}
    commands = [[sys.executable, "-c", TWO_PROCESSES, str(i), str(port), __file__] for i in range(2)]
    running = [subprocess.Popen(c, env=environment, stdout=subprocess.PIPE, text=True) for c in commands]
    outputs = [process.communicate(timeout=300)[0] for process in running]
    arrays = split()
    expected = {name: expected_statistics(arrays).compute(name) for name in ("clip", "avsbench", "dataset")}
    labels = np.asarray(brightness(LEVEL, {"frames": jnp.asarray(arrays["frames"])}))[..., 0] > 0.5
    shown = gallery.worst_and_best(expected_statistics(arrays), 2).values()
    expected["pixels"] = {str(index): int(labels[index].sum()) for index in sorted(shown)}
    for output in outputs:
        assert json.loads(output.splitlines()[-1]) == expected


def test_results_with_negative_audio():
    arrays = split()
    statistics = {"true": expected_statistics(arrays), "silence": expected_statistics(arrays, level=160.0)}
    found = evaluate.results(12, statistics, PROTOCOLS)
    assert list(found) == ["step", "true", "silence", "drop"] and found["step"] == 12
    for name, options in PROTOCOLS.items():
        assert found["silence"][name] == statistics["silence"].compute(name, **options)
        assert found["drop"]["silence"][name] == found["true"][name]["J"] - found["silence"][name]["J"]
    assert "drop" not in evaluate.results(12, {"true": statistics["true"]}, PROTOCOLS)


def test_files_hold_the_figures_and_a_line_for_each_clip(tmp_path):
    arrays = split()
    statistics = {"true": expected_statistics(arrays), "silence": expected_statistics(arrays, level=160.0)}
    found = evaluate.results(12, statistics, PROTOCOLS)
    names = [f"dog/clip, {i}" for i in range(7)]
    evaluate.write_results(tmp_path / "run", found, statistics, names)
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == found
    with open(tmp_path / "run" / "clips.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 14 and [row["clip"] for row in rows[:7]] == names
    per_clip = statistics["silence"].per_clip()
    assert [float(row["J"]) for row in rows if row["audio"] == "silence"] == per_clip["J"].tolist()
    assert [int(row["frames"]) for row in rows[:7]] == arrays["mask_valid"].sum(-1).tolist()


def test_the_table_shows_every_figure():
    figures = {"clip": {"J": 0.75, "F": 0.5, "area": 0.125}, "dataset": {"J": 0.25, "F": 1.0}}
    silence = {"clip": {"J": 0.5, "F": 0.25, "area": 0.0}, "dataset": {"J": 0.0, "F": 0.0}}
    drop = {"silence": {"clip": 0.25, "dataset": 0.25}}
    lines = evaluate.format_table({"step": 3, "true": figures, "silence": silence, "drop": drop}).splitlines()
    assert lines[0] == "step 3"
    assert [line.split() for line in lines[3:]] == [
        ["true", "clip", "0.7500", "0.5000", "area", "0.1250"],
        ["true", "dataset", "0.2500", "1.0000"],
        ["silence", "clip", "0.5000", "0.2500", "0.2500", "area", "0.0000"],
        ["silence", "dataset", "0.0000", "0.0000", "0.2500"],
    ]
    assert lines[4].index("0.2500") == lines[3].index("0.7500") and lines[6].rindex("0.2500") == lines[1].index("drop")


@pytest.mark.parametrize("number", [0, 2, 5])
def test_the_worst_and_best_clips_are_drawn(number):
    arrays = split()
    statistics = expected_statistics(arrays)
    scores = statistics.per_clip()["J"]
    chosen = gallery.worst_and_best(statistics, number)
    worst, best = np.argsort(scores, kind="stable")[:number], np.argsort(-scores, kind="stable")
    assert list(chosen.values()) == [*worst, *[index for index in best if index not in worst][:number]]
    best = min(number, 7 - number)
    assert list(chosen) == [f"worst_{i + 1}" for i in range(number)] + [f"best_{i + 1}" for i in range(best)]

    shown, step = gallery.Gallery(number), evaluate.counting_step(brightness)
    evaluate.evaluate(step, LEVEL, batches(arrays, 3), num_classes=1, num_frames=2, gallery=shown)
    assert set(shown.examples) == set(chosen.values())
    for index, example in shown.examples.items():
        np.testing.assert_array_equal(example.frames, arrays["frames"][index])
        np.testing.assert_array_equal(example.annotated, arrays["mask_valid"][index])
        scores = brightness(LEVEL, {"frames": jnp.asarray(example.frames)})
        np.testing.assert_array_equal(example.prediction, np.asarray(scores)[..., 0] > 0.5)
    pictures = gallery.draw(shown.examples, statistics, number, [f"dog {i}" for i in range(7)])
    assert list(pictures) == list(chosen) and all(image.dtype == np.uint8 for image in pictures.values())


def test_only_clips_that_may_be_shown_are_fetched():
    """Of a thousand clips in random order few ever are among the two worst and best, ties or not."""
    arrays = split(clips=1000, size=4)
    whole, shown, fetched = expected_statistics(arrays), gallery.Gallery(2), []
    for start in range(0, 1000, 4):
        rows = slice(start, start + 4)
        part = metrics.Statistics(1, whole.clip_index[rows], whole.valid[rows], whole.counts[rows])

        def fetch(part=part):
            fetched.append(part)
            return {index: index for index in part.clip_index.tolist()}

        shown.add(part, fetch)
    assert set(shown.examples) == set(gallery.worst_and_best(whole, 2).values())
    assert len(fetched) < 40


def test_a_model_and_several_classes():
    arrays = split(classes=3)
    arrays["log_mel"] = np.ones((7, 2, 96, 64), np.float32)

    def apply(variables, inputs, train):
        assert not train and inputs["frames"].dtype == jnp.float32
        level = (
            inputs["frames"].mean(-1, keepdims=True)
            + variables["params"]["level"] * inputs["log_mel"][:, :, :1, :1, None]
        )
        logits = -((level - jnp.array([-1.2, 0.3, 1.6])) ** 2)
        return types.SimpleNamespace(mask_logits=logits)

    predict = evaluate.predict_fn(types.SimpleNamespace(apply=apply))
    variables = {"params": {"level": jnp.float32(0.1)}}
    shown = gallery.Gallery(7)
    step = evaluate.counting_step(predict)
    found = evaluate.evaluate(step, variables, batches(arrays, 3), num_classes=3, num_frames=2, gallery=shown)
    predicted = np.argmax(np.concatenate([predict(variables, batch) for batch in batches(arrays, 7)])[:7], -1)
    assert set(np.unique(predicted)) == {0, 1, 2}
    scores = np.eye(3, dtype=np.float32)[predicted]
    expected = metrics.create("avss", 3).update(scores, arrays["masks"], arrays["mask_valid"]).statistics
    np.testing.assert_array_equal(found.counts, expected.counts)
    for index in range(7):
        np.testing.assert_array_equal(shown.examples[index].prediction, predicted[index])
