"""Converted records -> batches, with Grain: shuffled and endless for training, in order and padded for evaluation.

    train = loader.train_batches("records", "train", LoaderOptions("s4", image_size=(224, 224), batch_size=8))
    batch = next(train)
    state = train.get_state()  # JSON-able; resumes bit for bit on any number of workers and processes

Every process of a multi-host run gets its share of each global batch.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
from collections.abc import Callable, Iterable, Iterator

import grain
import numpy as np
from absl import flags

from data_pipeline import packing, workers
from data_pipeline.batch import FIELDS
from data_pipeline.clips import ClipSource
from data_pipeline.options import LoaderError, LoaderOptions
from data_pipeline.records import clip_names, num_clips, open_set

__all__ = [
    "LoaderError", "LoaderOptions", "StateError", "clip_names", "eval_batches", "num_clips", "read_clips",
    "train_batches",
]  # fmt: skip

Batch = dict[str, np.ndarray]

_ASIDE = ("workers", "threads", "buffer", "cache")  # how the work is done; the batches are the same


class StateError(ValueError):
    """An iterator's state that belongs to other data or other settings."""


class TrainBatches:
    """An endless iterator over training batches whose state is one number and a fingerprint."""

    def __init__(self, iterator: grain.DatasetIterator, fingerprint: dict, pack: Callable[[Batch, int], Batch] | None):
        self._iterator = iterator
        self._first = True  # the next batch starts the processes that read ahead
        self._pack = pack
        self._fingerprint = json.loads(json.dumps(fingerprint))

    def __iter__(self) -> TrainBatches:
        return self

    def __next__(self) -> Batch:
        first = self._iterator.get_state()["global_next_index"]
        batch, self._first = workers.take(self._iterator, self._first), False
        return self._pack(batch, first) if self._pack else batch

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
        self._first = True

    def close(self) -> None:
        """Ends the threads and processes that read ahead."""
        _close(self._iterator)


class EvalBatches:
    """All clips of a split in order, in batches of a fixed shape; may be iterated again."""

    def __init__(self, dataset: grain.MapDataset, options: LoaderOptions):
        self._dataset = dataset
        self._options = options

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator[Batch]:
        batches = self._dataset.to_iter_dataset(read_options=_read_options(self._options))
        processes = min(self._options.workers, len(self))
        if processes:
            batches = batches.mp_prefetch(_multiprocessing(dataclasses.replace(self._options, workers=processes)))
        iterator = iter(batches)
        try:
            for place in range(len(self)):
                yield workers.take(iterator, first=place == 0)
        finally:
            _close(iterator)


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
    if shard.shard_count > 1:
        finished = grain.MapDataset.source(_Dealt(finished, options.batch_size, shard.shard_count))
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
    fingerprint = {"records": opened.fingerprint, "split": split, "clips": len(source), **stream}
    return TrainBatches(iterator, fingerprint, _packer(source.annotated, options, shard) if options.packed else None)


def _packer(annotated: list[int], options: LoaderOptions, shard: grain.sharding.ShardOptions) -> Callable:
    """Packs this process's share of a batch to a size that all processes arrive at, each by itself.

    They all know which clips the others have, and how many frames of them are annotated.
    """
    clips = options.batch_size // shard.shard_count
    in_order = grain.MapDataset.source(annotated).seed(options.seed).shuffle().repeat()

    def pack(batch: Batch, first: int) -> Batch:
        counts = np.array([in_order[first + place] for place in range(options.batch_size)])
        most = int(counts.reshape(shard.shard_count, clips).sum(1).max())
        return packing.pack(batch, packing.size(most, clips, options.frames, options.packed_frames))

    return pack


def eval_batches(records: str | os.PathLike, split: str, options: LoaderOptions) -> EvalBatches:
    """Every clip of a split once, in order; the last batch is filled up with zeros, `clip_valid` False there.

    Packed batches have as many frames as others; each holds whole clips, as many as fit, and is filled up in this way.
    In a run of several processes, process p gets rows [p b, (p + 1) b) of each global batch of size b * processes, and
    all processes get the same number of batches. Arguments and errors are those of `train_batches`.
    """
    source = ClipSource(open_set(records, options.task), split, options, training=False)
    shard = _shard(options)
    share = options.batch_size // shard.shard_count
    rows = np.arange(-(-len(source) // options.batch_size) * options.batch_size)
    rows = rows.reshape(-1, shard.shard_count, share)
    clips = _Padded(source, rows[:, shard.shard_index].ravel().tolist(), _padding(options))
    if not options.packed:
        return EvalBatches(grain.MapDataset.source(clips).batch(share), options)
    size = share * options.frames
    annotated = np.append(source.annotated, np.zeros(rows.size - len(source), int))
    groups = [packing.whole_clips(annotated[rows[:, p].ravel()].tolist(), size) for p in range(shard.shard_count)]
    mine = groups[shard.shard_index]
    mine += [range(0)] * (max(map(len, groups)) - len(mine))
    return EvalBatches(grain.MapDataset.source(_Packed(clips, mine, size)), options)


def read_clips(records: str | os.PathLike, split: str, options: LoaderOptions, indices: Iterable[int]) -> list[Batch]:
    """The clips of these indices as they stand in batches for evaluation, without the axis of clips, never packed."""
    source = ClipSource(open_set(records, options.task), split, options, training=False)
    return [source.finish(source[index]) for index in indices]


class _Dealt:
    """The clips of each batch in the order in which Grain deals them out to processes: each gets clips in a row.

    So the parts of the processes, one after the other, are the batch that a single process would have.
    """

    def __init__(self, clips: grain.MapDataset, batch_size: int, processes: int):
        self._clips, self._batch_size, self._processes = clips, batch_size, processes

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        batch, place = divmod(index, self._batch_size)
        turn, process = divmod(place, self._processes)
        return self._clips[batch * self._batch_size + process * (self._batch_size // self._processes) + turn]


class _Padded:
    """The clips at the given places of a source, and padding past its end."""

    def __init__(self, source: ClipSource, rows: list[int], padding: dict[str, np.ndarray]):
        self._source, self._rows, self.padding = source, rows, padding

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        row = self._rows[index]
        return self._source.finish(self._source[row]) if row < len(self._source) else self.padding


class _Packed:
    """Packed batches of `size` frames, of given groups of clips."""

    def __init__(self, clips: _Padded, groups: list[range], size: int):
        self._clips, self._groups, self._size = clips, groups, size

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, index: int) -> Batch:
        members = [self._clips[place] for place in self._groups[index]] or [self._clips.padding]
        batch = {name: np.stack([clip[name] for clip in members]) for name in members[0]}
        annotated = np.count_nonzero(batch["mask_valid"] & batch["clip_valid"][:, None])
        return {name: self._filled(name, value) for name, value in packing.pack(batch, annotated).items()}

    def _filled(self, name: str, value: np.ndarray) -> np.ndarray:
        nothing = self._clips.padding.get(name, np.zeros((), value.dtype)).flat[0]
        return np.concatenate([value, np.full((self._size - len(value), *value.shape[1:]), nothing, value.dtype)])


def _close(iterator: grain.DatasetIterator) -> None:
    """Ends the threads and processes that read ahead, and frees the memory that they share.

    Their StopIterations refer to themselves, and to the arrays that were read last.
    """
    iterator.close()
    gc.collect()


def _padding(options: LoaderOptions) -> dict[str, np.ndarray]:
    sizes = {"T": options.frames, "H": options.image_size[0], "W": options.image_size[1]}
    absent = {"log_mel" if options.hears_embeddings else "audio_embedding", "frame_index"}
    absent |= set() if options.pre_masks else {"pre_masks"}
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
