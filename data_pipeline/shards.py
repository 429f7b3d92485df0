"""Which clips go to which shard, and the writing of one shard and of a set's metadata (the steps of `convert`)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import google_crc32c
import numpy as np
import tensorflow_datasets as tfds

from data_pipeline import avsbench, labels, places, records, schema
from data_pipeline.audio_cache import AudioCache
from data_pipeline.tfrecord import index_path, read_index, write_atomically, write_shard

_SHARD_BYTES = 128 << 20  # large enough to stream, small enough to share out among processes
_SHARD_CLIPS = 256  # bounds what an interruption loses where clips are small


@dataclasses.dataclass(frozen=True)
class Source:
    """The raw files of one clip as they are now: their bytes, and a digest of names and contents."""

    size: int
    digest: str


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file to be written: where, from which clips, and a fingerprint of everything that determines its bytes."""

    path: Path
    split: str
    samples: tuple[avsbench.Sample, ...]
    fingerprint: str

    def is_complete(self) -> bool:
        """Whether the file is there, whole, and made from just these clips."""
        index = read_index(self.path)
        return index is not None and index.fingerprint == self.fingerprint


def inspect(sample: avsbench.Sample) -> tuple[list[avsbench.Problem], Source | None]:
    """Checks a clip and takes its digest; a damaged clip has none."""
    problems = avsbench.check([sample])
    if problems:
        return problems, None
    size, lines = 0, [repr((sample.name, sample.split, sample.category, sample.frame_valid, sample.mask_valid))]
    if sample.subset:
        lines.append(sample.subset)
    for path in (*sample.frames, *sample.masks, sample.log_mel, sample.wav, *sample.pre_masks):
        if path is not None:
            content = path.read_bytes()
            size += len(content)
            lines.append(f"{path.name} {len(content)} {google_crc32c.value(content):08x}")
    return [], Source(size, _digest(lines))


def plan(
    task: str,
    folder: Path,
    samples: Sequence[avsbench.Sample],
    sources: Sequence[Source],
    per_split: int | None = None,
    cache: AudioCache | None = None,
) -> list[Shard]:
    """Shares out the clips: in order, evenly, shards of about 128 MiB and at most 256 clips unless `per_split` says."""
    made_by = [task, str(schema.SCHEMA_VERSION), *([cache.vggish] if cache else [])]
    found = []
    for split in dict.fromkeys(sample.split for sample in samples):
        members = [i for i, sample in enumerate(samples) if sample.split == split]
        size = sum(sources[i].size for i in members)
        count = per_split or max(math.ceil(size / _SHARD_BYTES), math.ceil(len(members) / _SHARD_CLIPS))
        parts = np.array_split(members, min(count, len(members)))
        for number, part in enumerate(parts):
            path = folder / f"{records.set_name(task)}-{split}.tfrecord-{number:05d}-of-{len(parts):05d}"
            digest = _digest([*made_by, *(sources[i].digest for i in part)])
            found.append(Shard(path, split, tuple(samples[i] for i in part), digest))
    return found


def set_fingerprint(shards: Sequence[Shard]) -> str:
    """Of everything that determines the bytes of the whole set."""
    return _digest([f"{shard.path.name} {shard.fingerprint}" for shard in shards])


def write(shard: Shard, cache: AudioCache | None = None) -> None:
    """Reads the shard's clips and writes its file and index; with a cache, the clips' audio embeddings too.

    Raises:
      avsbench.DataError: a raw file has become unreadable since it was checked.
      OSError: the output cannot be written; no part of the shard is left.
    """
    write_shard(shard.path, _payloads(shard.samples, cache), schema.describe, shard.fingerprint)


def count(shard: Shard) -> dict[str, int]:
    """What a complete shard holds: clips, frames, masks, bytes."""
    return {
        "clips": len(shard.samples),
        "frames": sum(len(sample.frames) for sample in shard.samples),
        "masks": sum(len(sample.masks) for sample in shard.samples),
        "bytes": places.size(shard.path),
    }


def count_splits(planned: Sequence[Shard]) -> dict[str, dict[str, int]]:
    splits: dict[str, dict[str, int]] = {}
    for shard in planned:
        total = splits.setdefault(shard.split, {})
        for name, number in count(shard).items():
            total[name] = total.get(name, 0) + number
    return splits


def clear_leftovers(folder: Path, shards: Sequence[Shard]) -> None:
    """Removes what an interrupted or different conversion left: temporary files, shards outside the plan."""
    planned = {path.name for shard in shards for path in (shard.path, index_path(shard.path))}
    for path in {*folder.glob(".*.tmp"), *folder.glob("*.tfrecord-*")}:
        if path.name not in planned:
            path.unlink()


def write_metadata(
    folder: Path,
    task: str,
    shards: Sequence[Shard],
    categories: Sequence[str],
    origin: dict,
    cache: AudioCache | None = None,
) -> None:
    """Writes TFDS's metadata and our own; `dataset_info.json`, which makes the set count as whole, comes last."""
    identity = tfds.core.dataset_info.DatasetIdentity(
        name=records.set_name(task),
        version=tfds.core.Version(schema.TFDS_VERSION),
        data_dir=os.fspath(folder),
        module_name="",
    )
    info = dataset_info(identity, task, metadata(task, shards, categories, origin, cache))
    info.set_file_format("tfrecord")
    info.set_splits(splits(folder, task, shards))
    with tempfile.TemporaryDirectory() as scratch:
        info.write_to_directory(scratch)
        written = sorted(Path(scratch).iterdir(), key=lambda path: path.name == records.INFO_FILE)
        for path in written:
            write_atomically(folder / path.name, [path.read_bytes()])


def categories(samples: Sequence[avsbench.Sample]) -> Sequence[str]:
    """The names that number the clips' categories: S4's published order, or for other names the alphabet."""
    present = {sample.category for sample in samples if sample.category}
    return labels.S4_CATEGORIES if present and present <= set(labels.S4_CATEGORIES) else sorted(present)


def dataset_info(builder, task: str, about: dict) -> tfds.core.DatasetInfo:
    """TFDS's description of a set, with what `metadata` says of it."""
    return tfds.core.DatasetInfo(
        builder=builder,
        description=f"Audio-visual segmentation clips of task {task}, one tf.train.Example each.",
        features=schema.features(),
        metadata=tfds.core.MetadataDict(about),
    )


def metadata(
    task: str, shards: Sequence[Shard], categories: Sequence[str], origin: dict, cache: AudioCache | None = None
) -> dict:
    """What `records.open_set` wants to know of a set."""
    return {
        "task": task,
        "schema_version": schema.SCHEMA_VERSION,
        "fingerprint": set_fingerprint(shards),
        "categories": list(categories),
        "vggish": cache.vggish if cache else "",
        "origin": origin,
    }


def splits(folder: Path, task: str, shards: Sequence[Shard]) -> tfds.core.splits.SplitDict:
    """TFDS's description of the splits, of complete shards in `folder`."""
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=records.set_name(task), filetype_suffix="tfrecord"
    )
    found = []
    for split in dict.fromkeys(shard.split for shard in shards):
        members = [shard for shard in shards if shard.split == split]
        lengths = [len(shard.samples) for shard in members]
        size = sum(places.size(shard.path) for shard in members)
        found.append(tfds.core.SplitInfo(split, lengths, size, template.replace(split=split)))
    return tfds.core.splits.SplitDict(found)


def write_report(folder: Path, report: dict) -> None:
    write_atomically(folder / "report.json", [json.dumps(report, indent=2).encode() + b"\n"])


def _payloads(samples: Sequence[avsbench.Sample], cache: AudioCache | None) -> Iterator[bytes]:
    declared = schema.features()
    for sample in samples:
        record = _record(sample, avsbench.read(sample))
        if cache:
            record = dataclasses.replace(record, audio_embedding=cache.embed(record.log_mel))
        yield schema.encode(record, declared)


def _record(sample: avsbench.Sample, clip: avsbench.Clip) -> schema.Record:
    present = np.unique(np.concatenate([np.unique(mask) for mask in clip.masks] or [[]])).astype(np.int64)
    audio = np.zeros(0, np.int16) if clip.waveform is None else clip.waveform
    return schema.Record(
        name=sample.name,
        split=sample.split,
        category=sample.category,
        subset=sample.subset,
        frames=list(clip.frames),
        masks=[schema.encode_mask(mask) for mask in clip.masks],
        frame_valid=np.array(sample.frame_valid, bool),
        mask_valid=np.array(sample.mask_valid, bool),
        log_mel=clip.log_mel,
        audio=audio,
        classes=present[(present > 0) & (present < 255)],
        pre_masks=list(clip.pre_masks),
    )


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
