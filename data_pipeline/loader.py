"""Converted records -> batches, with Grain: shuffled and endless for training, in order and padded for evaluation.

    train = loader.train_batches("records", "train", LoaderOptions("s4", image_size=(224, 224), batch_size=8))
    batch = next(train)
    state = train.get_state()  # JSON-able; resumes bit for bit on any number of workers and processes

Every process of a multi-host run gets its share of each global batch.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator

import grain
import numpy as np
from absl import flags

from data_pipeline.batch import FIELDS
from data_pipeline.clips import ClipSource
from data_pipeline.options import LoaderError, LoaderOptions
from data_pipeline.records import clip_names, num_clips, open_set

__all__ = ["LoaderError", "LoaderOptions", "StateError", "clip_names", "eval_batches", "num_clips", "train_batches"]

_ASIDE = ("workers", "threads", "buffer", "cache")  # how the work is done; the batches are the same


class StateError(ValueError):
    """An iterator's state that belongs to other data or other settings."""


class TrainBatches:
    """An endless iterator over training batches whose state is one number and a fingerprint."""

    def __init__(self, iterator: grain.DatasetIterator, fingerprint: dict):
        self._iterator = iterator
        self._fingerprint = json.loads(json.dumps(fingerprint))

    def __iter__(self) -> TrainBatches:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        return next(self._iterator)

    def get_state(self) -> dict:
        """What `set_state` needs to go on after the batch that was delivered last; JSON-able."""
        return {"next_index": self._iterator.get_state()["global_next_index"], "fingerprint": self._fingerprint}

    def set_state(self, state: dict) -> None:
        """Goes on where `state` was taken.

        Raises:
          StateError: naming each setting that differs, because other batches would follow without a word.
        """
        theirs, ours = state["fingerprint"], self._fingerprint
        different = [
            f"{name} was {theirs.get(name)!r}, is {ours.get(name)!r}"
            for name in sorted({*theirs, *ours})
            if theirs.get(name) != ours.get(name)
        ]
        if different:
            raise StateError(
                "this state of the data iterator belongs to other data or settings: " + "; ".join(different)
            )
        self._iterator.set_state({"global_next_index": state["next_index"]})

    def close(self) -> None:
        """Ends the threads and processes that read ahead."""
        self._iterator.close()


class EvalBatches:
    """All clips of a split in order, in batches of a fixed shape; may be iterated again."""

    def __init__(self, dataset: grain.MapDataset, options: LoaderOptions):
        self._dataset = dataset
        self._options = options

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        batches = self._dataset.to_iter_dataset(read_options=_read_options(self._options))
        workers = min(self._options.workers, len(self))
        if workers:
            batches = batches.mp_prefetch(_multiprocessing(dataclasses.replace(self._options, workers=workers)))
        iterator = iter(batches)
        try:
            yield from iterator
        finally:
            iterator.close()  # ends the processes that read ahead, and frees the memory that they share


def train_batches(records: str | os.PathLike, split: str, options: LoaderOptions) -> TrainBatches:
    """Training batches without end; every epoch is a new permutation of the whole split.

    Args:
      records: a converted set (see `records.open_set`).
      split: usually "train".
      options: what the batches are made of.

    Returns:
      An iterator over this process's share of each batch (see `batch`), with `get_state`, `set_state` and `close`.

    Raises:
      RecordError: the records are missing, damaged, or of another task or version.
      LoaderError: settings that do not fit the records or the number of processes.
    """
    opened = open_set(records, options.task)
    source = ClipSource(opened, split, options, training=True)
    if not len(source):
        raise LoaderError(f"split {split!r} of {opened.folder} has no clips")
    shard = _shard(options)
    clips = grain.MapDataset.source(source).seed(options.seed).shuffle().repeat()
    finished = clips.random_map(source.finish) if source.is_random else clips.map(source.finish)
    iterator = iter(
        grain.experimental.ElasticIterator(
            finished,
            options.batch_size,
            shard,
            read_options=_read_options(options),
            multiprocessing_options=_multiprocessing(options) if options.workers else None,
        )
    )
    stream = {name: value for name, value in dataclasses.asdict(options).items() if name not in _ASIDE}
    return TrainBatches(iterator, {"records": opened.fingerprint, "split": split, "clips": len(source), **stream})


def eval_batches(records: str | os.PathLike, split: str, options: LoaderOptions) -> EvalBatches:
    """Every clip of a split once, in order; the last batch is filled up with zeros, `clip_valid` False there.

    In a run of several processes, process p gets rows [p b, (p + 1) b) of each global batch of size b * processes, and
    all processes get the same number of batches. Arguments and errors are those of `train_batches`.
    """
    source = ClipSource(open_set(records, options.task), split, options, training=False)
    shard = _shard(options)
    share = options.batch_size // shard.shard_count
    rows = np.arange(-(-len(source) // options.batch_size) * options.batch_size)
    rows = rows.reshape(-1, shard.shard_count, share)[:, shard.shard_index].ravel()
    clips = grain.MapDataset.source(_Padded(source, rows.tolist(), _padding(options)))
    return EvalBatches(clips.batch(share), options)


class _Padded:
    """The clips at the given places of a source, and padding past its end."""

    def __init__(self, source: ClipSource, rows: list[int], padding: dict[str, np.ndarray]):
        self._source, self._rows, self._padding = source, rows, padding

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        row = self._rows[index]
        return self._source.finish(self._source[row]) if row < len(self._source) else self._padding


def _padding(options: LoaderOptions) -> dict[str, np.ndarray]:
    sizes = {"T": options.frames, "H": options.image_size[0], "W": options.image_size[1]}
    absent = {"audio_embedding"} if options.pre_masks else {"audio_embedding", "pre_masks"}
    names = [name for name in FIELDS if name not in absent]
    empty = {name: tuple(sizes.get(axis, axis) for axis in FIELDS[name].axes[1:]) for name in names}
    padding = {name: np.zeros(shape, FIELDS[name].dtype) for name, shape in empty.items()}
    return padding | {"category": np.int32(-1), "clip_index": np.int32(-1)}


def _shard(options: LoaderOptions) -> grain.sharding.ShardOptions:
    shard = grain.sharding.ShardByJaxProcess()
    if options.batch_size % shard.shard_count:
        raise LoaderError(f"batch_size={options.batch_size} is not a multiple of the {shard.shard_count} processes")
    return shard


def _read_options(options: LoaderOptions) -> grain.ReadOptions:
    return grain.ReadOptions(num_threads=options.threads, prefetch_buffer_size=options.buffer)


def _multiprocessing(options: LoaderOptions) -> grain.MultiprocessingOptions:
    if not flags.FLAGS.is_parsed():
        raise LoaderError(
            "workers > 0 needs parsed absl flags: call `absl.flags.FLAGS.mark_as_parsed()` first (notebooks, scripts)"
        )
    return grain.MultiprocessingOptions(num_workers=options.workers, per_worker_buffer_size=options.buffer)
