"""The evaluations of a run: which data and kinds of audio are measured, and where the results go."""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Iterator

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from avs_jax.metrics import Statistics
from avs_jax.parallel import mesh as meshes
from avs_jax.predict import visualize
from avs_jax.train import evaluate, gallery
from avs_jax.train.feed import evaluation_batches
from avs_jax.train.query_gallery import QueryGallery
from avs_jax.train.weights import require_cached_audio
from avs_jax.train.writers import Writer
from data_pipeline import loader

log = logging.getLogger(__name__)


class Evaluator:
    """Measures weights on a split as `config.eval` says; compiles once however often it is called.

    Leaves in the workdir: results.json and clips.csv of the latest evaluation, pictures/ of its worst and best clips,
    for VCT also of what its queries do in them.
    """

    def __init__(self, config, model: nn.Module, mesh: Mesh, writers: Writer, workdir: pathlib.Path):
        self._config, self._mesh, self._writers, self._workdir = config, mesh, writers, workdir
        self._count = evaluate.counting_step(evaluate.predict_fn(model, config.eval.size))
        self._queries = QueryGallery(config, model) if config.model.name == "vct" else None

    def __call__(self, variables: dict, split: str, step: int) -> dict[str, float]:
        """Evaluates and writes everything.

        Returns:
          The figures with true audio, {"clip/J": 0.8, ...}.
        """
        settings = self._config.eval
        require_cached_audio(variables["params"], self._config)
        sizes = {"num_classes": self._config.model.num_classes, "num_frames": self._config.data.num_frames}
        shown, statistics = gallery.Gallery(settings.pictures), {}
        for audio in (evaluate.TRUE_AUDIO, *filter(None, settings.audio.split(","))):
            seen = shown if audio == evaluate.TRUE_AUDIO else None
            batches = self._batches(split, audio)
            with jax.set_mesh(self._mesh):
                statistics[audio] = evaluate.evaluate(self._count, variables, batches, **sizes, gallery=seen)
        found = evaluate.results(step, statistics, {name: _options(name, settings) for name in settings.protocols})
        true = statistics[evaluate.TRUE_AUDIO]
        names = loader.clip_names(self._config.data.records, split, self._config.task)
        queries = self._draw_queries(variables, split, true)
        if jax.process_index() == 0:
            log.info("%s split, %s", split, evaluate.format_table(found))
            pictures = gallery.draw(shown.examples, true, settings.pictures, names) | queries
            evaluate.write_results(self._workdir, {**found, "split": split}, statistics, names)
            for place, picture in pictures.items():
                visualize.save(self._workdir / "pictures" / f"{place}.png", picture)
            self._writers.scalars(step, dict(_flat(found, f"{split}/")))
            self._writers.images(step, {f"{split}/{place}": picture for place, picture in pictures.items()})
            self._writers.flush()
        return dict(_flat(found[evaluate.TRUE_AUDIO], ""))

    def _draw_queries(self, variables: dict, split: str, counted: Statistics) -> dict[str, np.ndarray]:
        """Of VCT, what its queries do in the clips that are shown: {"worst_1_queries": ...}."""
        if self._queries is None:
            return {}
        chosen = gallery.worst_and_best(counted, self._config.eval.pictures)
        with jax.set_mesh(self._mesh):
            drawn = self._queries.draw(variables, split, chosen)
        return {f"{place}_queries": picture for place, picture in drawn.items()}

    def _batches(self, split: str, audio: str) -> Iterator[dict[str, jax.Array]]:
        for batch in evaluation_batches(self._config, split, audio, meshes.clips_over(self._mesh)):
            yield meshes.put_batch(batch, self._mesh)


def _options(protocol: str, settings) -> dict:
    if protocol == "avsbench":
        return {"batch_size": settings.avsbench_batch_size}
    return {"padded": settings.count_padded_frames} if protocol == "avss" else {}


def _flat(figures: dict, prefix: str) -> Iterator[tuple[str, float]]:
    for name, value in figures.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}/")
        elif name != "step":
            yield f"{prefix}{name}", value
