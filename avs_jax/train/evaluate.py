"""Evaluation: one pass of exact counts over a split, every protocol's figures from it, and what is kept of them."""

from __future__ import annotations

import collections
import csv
import dataclasses
import io
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from avs_jax import metrics, models
from avs_jax.metrics import Statistics
from avs_jax.predict import visualize
from avs_jax.train.writers import write_text

Batch = Mapping[str, jax.Array]
Predict = Callable[[Any, Batch], jax.Array]

TRUE_AUDIO = "true"  # the kind of audio that others are compared with

# Batches on their way through the devices while the counts of earlier ones are fetched.
_AHEAD = 2


def predict_fn(model: nn.Module) -> Predict:
    """Returns the function (variables, batch) -> probabilities (B,T,H,W,C), at the size of the batch's masks."""

    def predict(variables: Any, batch: Batch) -> jax.Array:
        outputs = model.apply(variables, models.prepare(batch), train=False)
        return models.semantic_scores(outputs, batch["masks"].shape[2:])

    return predict


def counting_step(predict: Predict) -> Callable[[Any, Batch], dict[str, jax.Array]]:
    """Returns the jitted step (variables, batch) -> what `evaluate` gathers. Make it once: each is compiled anew.

    Scores never leave the devices, only a few integers a frame do.

    Args:
      predict: (variables, batch) -> probabilities (B,T,H,W,C).
    """

    @jax.jit
    def step(variables: Any, batch: Batch) -> dict[str, jax.Array]:
        return {
            "counts": metrics.statistics(predict(variables, batch), batch["masks"]),
            "valid": batch["mask_valid"] & batch["clip_valid"][:, None],
            "clip_index": jnp.where(batch["clip_valid"], batch["clip_index"], -1),
        }

    return step


def labelling_step(predict: Predict) -> Callable[[Any, Batch], jax.Array]:
    """Returns the jitted step (variables, batch) -> predicted class indices (B,T,H,W) uint8, for pictures."""

    @jax.jit
    def step(variables: Any, batch: Batch) -> jax.Array:
        scores = predict(variables, batch)
        labels = scores[..., 0] > 0.5 if scores.shape[-1] == 1 else jnp.argmax(scores, -1)
        return labels.astype(jnp.uint8)

    return step


def evaluate(
    step: Callable[[Any, Batch], dict[str, jax.Array]], variables: Any, batches: Iterable[Batch], *, num_classes: int
) -> Statistics:
    """Counts a whole split.

    With several processes every one calls this with its part of the same number of global batches, and gets the
    statistics of all clips. How clips are batched and spread changes no figure.

    Args:
      step: of `counting_step`.
      batches: on the devices; with `masks`, `mask_valid`, `clip_valid` and `clip_index` beside the model's inputs.
      num_classes: of the model.
    """
    parts, waiting = [], collections.deque()
    for batch in batches:
        waiting.append(step(variables, batch))
        if len(waiting) > _AHEAD:
            parts.append(Statistics.of(**_fetch(waiting.popleft())))
    parts += [Statistics.of(**_fetch(counted)) for counted in waiting]
    return Statistics.empty(num_classes).merge(*parts)


def results(
    step: int, statistics: Mapping[str, Statistics], protocols: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """All figures of an evaluation.

    Args:
      step: the training step of the weights.
      statistics: of each kind of audio: "true", and those that no object in the picture makes ("silence", ...).
      protocols: names, with their options: {"clip": {}, "avsbench": {"batch_size": 2}}.

    Returns:
      {"step": step, "true": {protocol: {metric: value}}, "silence": {...}}; where there is other audio than the true
      one, also {"drop": {"silence": {protocol: J with true audio - J with this}}}.
    """
    found: dict[str, Any] = {"step": int(step)}
    for audio, counted in statistics.items():
        found[audio] = {name: counted.compute(name, **options) for name, options in protocols.items()}
    others = [audio for audio in statistics if audio != TRUE_AUDIO]
    if TRUE_AUDIO in statistics and others:
        found["drop"] = {
            audio: {name: found[TRUE_AUDIO][name]["J"] - found[audio][name]["J"] for name in protocols}
            for audio in others
        }
    return found


def write_results(
    workdir: str | os.PathLike,
    found: Mapping[str, Any],
    statistics: Mapping[str, Statistics],
    names: Sequence[str] | None = None,
) -> None:
    """Writes `results.json`, the figures, and `clips.csv`, a line for each clip and kind of audio, into `workdir`.

    Args:
      found: of `results`.
      statistics: what it was made of.
      names: of the split's clips, by index; without them the column `clip` is empty.
    """
    workdir = pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    lines = io.StringIO()
    rows = csv.writer(lines, lineterminator="\n")
    columns = ("frames", "J", "F", "area", "true_area")
    rows.writerow(("audio", "clip_index", "clip", *columns))
    for audio, counted in statistics.items():
        per_clip = counted.per_clip()
        for i, index in enumerate(per_clip["clip_index"]):
            name = "" if names is None else names[index]
            rows.writerow((audio, index, name, *(per_clip[column][i] for column in columns)))
    write_text(workdir / "clips.csv", lines.getvalue())
    write_text(workdir / "results.json", json.dumps(found, indent=1, allow_nan=False) + "\n")


def format_table(found: Mapping[str, Any]) -> str:
    """The figures of `results` as a table for a terminal: a line for each kind of audio and protocol."""
    rows = [("audio", "protocol", "J", "F", "drop of J", "")]
    for audio, protocols in found.items():
        if audio == "drop" or not isinstance(protocols, Mapping):
            continue
        for protocol, figures in protocols.items():
            drop = found.get("drop", {}).get(audio, {}).get(protocol)
            rest = "  ".join(f"{name} {value:.4f}" for name, value in figures.items() if name not in ("J", "F"))
            shown = (f"{figures['J']:.4f}", f"{figures['F']:.4f}", "" if drop is None else f"{drop:.4f}")
            rows.append((audio, protocol, *shown, rest))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([f"step {found['step']}", lines[0], "-" * max(map(len, lines)), *lines[1:]])


@dataclasses.dataclass(frozen=True)
class Example:
    """A clip and what was predicted for it: what `visualize.panel` shows."""

    frames: np.ndarray  # (T,H,W,3) uint8
    truth: np.ndarray  # (T,H,W) uint8
    prediction: np.ndarray  # (T,H,W) uint8
    annotated: np.ndarray  # (T,) bool
    log_mel: np.ndarray | None  # (T,96,64) float32


def worst_and_best(statistics: Statistics, number: int) -> dict[str, int]:
    """Indices of up to `number` clips each of lowest and of highest `clip` J: {"worst_1": ..., "best_1": ...}."""
    per_clip = statistics.per_clip()
    order = per_clip["clip_index"][np.argsort(per_clip["J"], kind="stable")].tolist()
    worst, best = order[:number], order[number:][::-1][:number]
    return {
        **{f"worst_{place}": index for place, index in enumerate(worst, 1)},
        **{f"best_{place}": index for place, index in enumerate(best, 1)},
    }


def examples(
    step: Callable[[Any, Batch], jax.Array], variables: Any, batches: Iterable[Batch], clip_index: Iterable[int]
) -> dict[int, Example]:
    """Predicts some clips of a split for pictures, passing over all other batches.

    Args:
      step: of `labelling_step`.
      batches: of the split from its beginning, as for `evaluate`, with `frames` and, if there is sound, `log_mel`.
      clip_index: of the clips.
    """
    wanted, found = set(clip_index), {}
    for batch in batches:
        if len(found) == len(wanted):
            break
        held = _fetch(batch["clip_index"])
        places = [place for place, index in enumerate(held.tolist()) if index in wanted]
        if not places:
            continue
        shown = {name: batch[name] for name in ("frames", "masks", "mask_valid", "log_mel") if name in batch}
        host = _fetch(shown | {"prediction": step(variables, batch)})
        for place in places:
            clip = {name: array[place] for name, array in host.items()}
            found[int(held[place])] = Example(
                clip["frames"], clip["masks"], clip["prediction"], clip["mask_valid"], clip.get("log_mel")
            )
    return found


def draw(
    chosen: Mapping[str, int], found: Mapping[int, Example], statistics: Statistics, names: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Pictures (height, width, 3) uint8 of the clips of `worst_and_best`, under the same keys."""
    per_clip = statistics.per_clip()
    scores = dict(zip(per_clip["clip_index"].tolist(), per_clip["J"], strict=True))
    pictures = {}
    for place, index in chosen.items():
        name = f"clip {index}" if names is None else names[index]
        title = f"{place.replace('_', ' ')}: {name}, J {scores[index]:.3f}"
        parts = dataclasses.asdict(found[index])
        pictures[place] = visualize.panel(**parts, num_classes=statistics.num_classes, title=title)
    return pictures


def _fetch(tree: Any) -> Any:
    """Whole arrays on the host, in every process."""
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(tree, tiled=True)
    return jax.device_get(tree)
