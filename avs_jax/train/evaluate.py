"""Evaluation: one pass of exact counts over a split, every protocol's figures from it, and what is kept of them."""

from __future__ import annotations

import collections
import csv
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

from avs_jax import metrics, models, parallel
from avs_jax.metrics import Statistics
from avs_jax.train.gallery import Example, Gallery
from avs_jax.train.writers import write_text

Batch = Mapping[str, jax.Array]
Predict = Callable[[Any, Batch], jax.Array]

TRUE_AUDIO = "true"  # the kind of audio that others are compared with

SHOWN = ("frames", "masks", "mask_valid", "log_mel")  # of a clip in a gallery, beside what was predicted

# Batches on their way through the devices while the counts of earlier ones are fetched.
_AHEAD = 2


def predict_fn(model: nn.Module, size: Sequence[int] = ()) -> Predict:
    """Returns the function (variables, batch) -> probabilities (B,T,H,W,C), of `size` or else that of the masks."""

    def predict(variables: Any, batch: Batch) -> jax.Array:
        variables = {**variables, "params": parallel.collected(variables["params"])}
        outputs = model.apply(variables, models.prepare(batch), train=False)
        return models.semantic_scores(outputs, tuple(size) or batch["masks"].shape[2:])

    return predict


def counting_step(predict: Predict) -> Callable[[Any, Batch], dict[str, jax.Array]]:
    """Returns the jitted step (variables, batch) -> what `evaluate` gathers. Make it once: each is compiled anew.

    Scores never leave the devices, only a few integers a frame do, and the predicted labels of the clips to be shown.

    Args:
      predict: (variables, batch) -> probabilities (B,T,H,W,C), of any size: masks are brought to it.
    """

    @jax.jit
    def step(variables: Any, batch: Batch) -> dict[str, jax.Array]:
        scores = predict(variables, batch)
        labels = scores[..., 0] > 0.5 if scores.shape[-1] == 1 else jnp.argmax(scores, -1)
        labels = nearest(labels, batch["masks"].shape[2:])
        found = {
            "counts": metrics.statistics(scores, nearest(batch["masks"], scores.shape[2:4])),
            "valid": batch["mask_valid"] & batch["clip_valid"][:, None],
            "clip_index": jnp.where(batch["clip_valid"], batch["clip_index"], -1),
            "labels": labels.astype(jnp.uint8),
        }
        return found | {name: batch[name] for name in ("frame_index",) if name in batch}

    return step


def nearest(masks: jax.Array, size: Sequence[int]) -> jax.Array:
    """Masks (B,T,H,W) at another `size`, each pixel that of the place where its centre lies.

    Masks that have been brought to a larger size in this way come back as they were.
    """
    for axis, (wanted, given) in enumerate(zip(size, masks.shape[2:], strict=True), 2):
        if wanted != given:
            masks = jnp.take(masks, np.floor((np.arange(wanted) + 0.5) * given / wanted).astype(int), axis=axis)
    return masks


def evaluate(
    step: Callable[[Any, Batch], dict[str, jax.Array]],
    variables: Any,
    batches: Iterable[Batch],
    *,
    num_classes: int,
    num_frames: int,
    gallery: Gallery | None = None,
) -> Statistics:
    """Counts a whole split.

    With several processes every one calls this with its part of the same number of global batches, and gets the
    statistics of all clips. How clips are batched and spread, or their frames packed, changes no figure.

    Args:
      step: of `counting_step`.
      batches: on the devices; with `masks`, `mask_valid`, `clip_valid` and `clip_index` beside the model's inputs, and
        if packed `frame_index`.
      num_classes: of the model.
      num_frames: of a clip.
      gallery: is shown every clip.
    """
    parts, waiting = [], collections.deque()

    def count() -> None:
        batch, found = waiting.popleft()
        places = {name: found[name] for name in ("clip_index", "frame_index") if name in found}
        host = _by_clip(fetch({name: found[name] for name in ("counts", "valid")} | places), num_frames)
        parts.append(Statistics.of(**host))
        if gallery:
            shown = {name: batch[name] for name in SHOWN if name in batch} | {"labels": found["labels"]} | places
            gallery.add(parts[-1], lambda: _examples(_by_clip(fetch(shown), num_frames)))

    for batch in batches:
        with jax.transfer_guard("disallow"):
            waiting.append((batch, step(variables, batch)))
        if len(waiting) > _AHEAD:
            count()
    while waiting:
        count()
    return Statistics.empty(num_classes).merge(*parts)


def _by_clip(found: dict[str, np.ndarray], num_frames: int) -> dict[str, np.ndarray]:
    """Arrays of packed frames, (N, 1, ...) each, as those of their clips (K, T, ...): 0 where a frame is missing."""
    if "frame_index" not in found:
        return found
    real = found["clip_index"] >= 0
    clips, rows = np.unique(found["clip_index"][real], return_inverse=True)
    places = rows, found["frame_index"][real]

    def spread(frames: np.ndarray) -> np.ndarray:
        whole = np.zeros((len(clips), num_frames, *frames.shape[2:]), frames.dtype)
        whole[places] = frames[real, 0]
        return whole

    return {name: spread(found[name]) for name in found.keys() - {"clip_index", "frame_index"}} | {"clip_index": clips}


def _examples(found: Mapping[str, np.ndarray]) -> dict[int, Example]:
    """The clips of a batch by their index."""
    columns = [found[name] for name in ("frames", "masks", "labels", "mask_valid")]
    sounds = found.get("log_mel", [None] * len(columns[0]))
    return {
        index: Example(*parts)
        for index, *parts in zip(found["clip_index"].tolist(), *columns, sounds, strict=True)
        if index >= 0
    }


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


def fetch(tree: Any) -> Any:
    """Whole arrays on the host, in every process."""
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(tree, tiled=True)
    return jax.device_get(tree)
