"""Conversion on Apache Beam: the same set, byte for byte, as `convert` makes, written by many machines.

    python -m data_pipeline.convert --dataset avss --source gs://bucket/raw --out gs://bucket/records --runner beam \
        --beam-options="--runner=DataflowRunner --project=P --region=R --temp_location=gs://bucket/tmp"

Clips are checked on Beam too, all of them before anything is written. A TFDS builder makes the set: it appears under
its name when all of it is there, so a pipeline that failed leaves nothing. Beam is an extra that wants an environment
of its own, since it holds protobuf back.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shlex
import time
import types
import uuid
from collections.abc import Sequence

import apache_beam
import tensorflow_datasets as tfds
from apache_beam.options.pipeline_options import PipelineOptions
from etils import epath

from data_pipeline import avsbench, places, records, schema, shards
from data_pipeline.audio_cache import AudioCache
from data_pipeline.report import Report, holds_another
from data_pipeline.tfrecord import write_atomically

_CHECKED_TOGETHER = 32  # clips


def convert_on_beam(
    task: str,
    source: str | os.PathLike,
    out: str | os.PathLike,
    *,
    options: str = "",
    shards_per_split: int | None = None,
    skip_damaged: bool = False,
    origin: dict | None = None,
    cache: AudioCache | None = None,
) -> Report:
    """Converts as `convert.convert` does; source and out may be gs:// and other addresses (see `places`).

    Args:
      options: Beam's own, quoted as in a shell: "--runner=FlinkRunner --flink_master=host:8081"; without any, this
        process does the work.

    Raises:
      avsbench.DataError: the raw data are missing or damaged; all problems are listed.
      ConvertError: the output holds another complete set.
    """
    start = time.monotonic()
    pipeline_options = PipelineOptions(shlex.split(options))
    samples = avsbench.find(task, source)
    folder = records.set_folder(out, task)
    problems, found = _inspect(samples, folder, pipeline_options)
    if problems and not (skip_damaged and any(found)):
        raise avsbench.DataError(problems)
    kept = [sample for sample, raw in zip(samples, found, strict=True) if raw]
    planned = shards.plan(task, folder, kept, [raw for raw in found if raw], shards_per_split, cache)
    done = _is_there(folder, planned)
    if not done:
        builder = _Builder(task, out, planned, shards.categories(kept), origin or {}, cache)
        builder.download_and_prepare(
            file_format="tfrecord",
            download_config=tfds.download.DownloadConfig(beam_options=pipeline_options),
        )
    report = Report(
        folder=os.fspath(folder),
        task=task,
        splits=shards.count_splits(planned),
        problems=[str(problem) for problem in problems],
        shards_written=0 if done else len(planned),
        shards_kept=len(planned) if done else 0,
        seconds=time.monotonic() - start,
    )
    if not done:
        shards.write_report(folder, dataclasses.asdict(report))
    return report


class _Builder(tfds.core.DatasetBuilder, skip_registration=True):
    """A TFDS builder whose shards are written where Beam wants them, each by `shards.write`."""

    VERSION = tfds.core.Version(schema.TFDS_VERSION)
    url_infos = types.MappingProxyType({})  # nothing is downloaded

    def __init__(self, task, out, planned: Sequence[shards.Shard], categories, origin, cache):
        self.name, self._task, self._planned, self._cache = records.set_name(task), task, planned, cache
        self._metadata = shards.metadata(task, planned, categories, origin, cache)
        super().__init__(data_dir=os.fspath(out))

    def _info(self) -> tfds.core.DatasetInfo:
        return shards.dataset_info(self, self._task, self._metadata)

    def _download_and_prepare(self, dl_manager, download_config) -> None:
        folder = os.fspath(self.data_dir)  # a temporary one, until all of it is there
        with apache_beam.Pipeline(options=download_config.beam_options) as pipeline:
            _ = (
                pipeline
                | "Shards" >> apache_beam.Create(self._planned)
                | "Spread" >> apache_beam.Reshuffle()
                | "Write" >> apache_beam.Map(functools.partial(_write, folder=folder, cache=self._cache))
            )
        moved = [_moved(shard, folder) for shard in self._planned]
        self.info.set_splits(shards.splits(places.at(folder), self._task, moved))

    def _as_dataset(self, *_, **__):
        raise TypeError("this builder only writes; read the set with data_pipeline.loader")


def _write(shard: shards.Shard, folder: str, cache: AudioCache | None) -> None:
    shards.write(_moved(shard, folder), cache)


def _moved(shard: shards.Shard, folder: str) -> shards.Shard:
    return dataclasses.replace(shard, path=places.at(folder) / shard.path.name)


def _inspect(samples: Sequence[avsbench.Sample], folder, options: PipelineOptions):
    """Checks every clip: all problems, and each clip's raw source (None for a damaged clip), in order."""
    results = epath.Path(folder.parent / f"checked-{uuid.uuid4().hex}")
    results.mkdir(parents=True)
    parts = [samples[start : start + _CHECKED_TOGETHER] for start in range(0, len(samples), _CHECKED_TOGETHER)]
    paths = [places.at(results) / f"{number:06d}.json" for number in range(len(parts))]
    try:
        with apache_beam.Pipeline(options=options) as pipeline:
            _ = (
                pipeline
                | "Clips" >> apache_beam.Create(list(zip(parts, paths, strict=True)))
                | "Spread" >> apache_beam.Reshuffle()
                | "Check" >> apache_beam.MapTuple(_inspect_part)
            )
        checked = [entry for path in paths for entry in json.loads(path.read_text())]
    finally:
        results.rmtree()
    problems = [avsbench.Problem(**problem) for trouble, _ in checked for problem in trouble]
    return problems, [shards.Source(**raw) if raw else None for _, raw in checked]


def _inspect_part(samples: Sequence[avsbench.Sample], path) -> None:
    checked = []
    for sample in samples:
        problems, raw = shards.inspect(sample)
        told = [dataclasses.asdict(problem) | {"file": os.fspath(problem.file)} for problem in problems]
        checked.append((told, raw and dataclasses.asdict(raw)))
    write_atomically(path, [json.dumps(checked).encode()])


def _is_there(folder, planned: Sequence[shards.Shard]) -> bool:
    """Whether the folder holds this very set; raises where it holds another one."""
    if not (folder / records.INFO_FILE).exists():
        return False
    if json.loads((folder / "metadata.json").read_text())["fingerprint"] != shards.set_fingerprint(planned):
        raise holds_another(folder)
    return True
