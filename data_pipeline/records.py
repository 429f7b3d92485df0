"""A converted data set on the disk: where it is, what it holds, and its splits as random-access sources.

A set is one folder `<out>/avsbench_<task>/<schema version>.0.0/` in TFDS's own layout (`dataset_info.json`,
`features.json`, `metadata.json`, shards), so `tfds.builder_from_directory` reads it too. `dataset_info.json` is
written last: where it is missing, the conversion has not finished.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import tensorflow_datasets as tfds
from google.protobuf import json_format

from data_pipeline import places, schema
from data_pipeline.tfrecord import RecordError, TFRecordSource

INFO_FILE = "dataset_info.json"
_CONVERT = "python -m data_pipeline.convert --dataset TASK --source RAW --out RECORDS"


def set_name(task: str) -> str:
    return f"avsbench_{task}"


def set_folder(out: str | os.PathLike, task: str) -> Path:
    """Where a converted set of `task` lies in the output folder."""
    return places.at(out) / set_name(task) / schema.TFDS_VERSION


@dataclasses.dataclass(frozen=True)
class RecordSet:
    """A whole converted set.

    Attributes:
      folder: holds `dataset_info.json` and the shards.
      task: "s4", "ms3" or "avss".
      fingerprint: of everything the set was made from.
      categories: names of the clips' categories; a category's number is its place here.
      shards: the files of each split, in order.
      clips: the number of clips of each split.
      vggish: fingerprint of the VGGish whose embeddings the records hold; empty where they hold none.
    """

    folder: Path
    task: str
    fingerprint: str
    categories: tuple[str, ...]
    shards: dict[str, tuple[Path, ...]]
    clips: dict[str, int]
    vggish: str = ""

    def source(self, split: str) -> TFRecordSource:
        """Random access to the serialised records of one split.

        Raises:
          RecordError: no such split, or its shards are missing or hold another number of records.
        """
        if split not in self.shards:
            raise RecordError(f"{self.folder} has no split {split!r}; it has {', '.join(sorted(self.shards))}")
        source = TFRecordSource(self.shards[split], schema.describe)
        if len(source) != self.clips[split]:
            raise RecordError(
                f"{self.folder}: the shards of {split!r} hold {len(source)} clips, {INFO_FILE} says "
                f"{self.clips[split]}: convert the data set again ({_CONVERT})"
            )
        return source


def open_set(records: str | os.PathLike, task: str | None = None) -> RecordSet:
    """Opens the converted set in `records`: the conversion's output folder, a set's folder, or a version's folder.

    Args:
      records: where to look.
      task: picks one where several sets lie side by side.

    Raises:
      RecordError: there is no whole set, more than one, one of another task or of another schema version, or the set
        is not on a disk of this machine.
    """
    if places.is_remote(records):
        raise RecordError(f"{records}: records are read from this machine's disks only: copy them to a folder")
    folder = _locate(Path(records), task)
    try:
        info = tfds.builder_from_directory(os.fspath(folder)).info
        metadata = json.loads((folder / "metadata.json").read_text())
        found = RecordSet(
            folder=folder,
            task=metadata["task"],
            fingerprint=metadata["fingerprint"],
            categories=tuple(metadata["categories"]),
            shards={name: tuple(map(Path, split.filepaths)) for name, split in info.splits.items()},
            clips={name: split.num_examples for name, split in info.splits.items()},
            vggish=metadata.get("vggish", ""),
        )
        version = metadata["schema_version"]
    except (KeyError, ValueError, OSError, json_format.ParseError) as error:
        raise RecordError(f"{folder} was not written by data_pipeline.convert, or is damaged: {error}") from error
    if version != schema.SCHEMA_VERSION:
        raise _other_version(folder, version)
    if task not in (None, found.task):
        raise RecordError(f"{folder} holds records of task {found.task!r}, not of {task!r}")
    return found


def num_clips(records: str | os.PathLike, split: str, task: str | None = None) -> int:
    """The number of clips of a split."""
    return len(open_set(records, task).source(split))


def clip_names(records: str | os.PathLike, split: str, task: str | None = None) -> list[str]:
    """The names of a split's clips; `clip_index` in a batch counts along this list."""
    return [note["name"] for note in open_set(records, task).source(split).notes]


def _locate(records: Path, task: str | None) -> Path:
    if (records / INFO_FILE).is_file():
        return records
    name = set_name(task) if task else "avsbench_*"
    patterns = [f"{name}/*/{INFO_FILE}", f"*/{INFO_FILE}"]
    found = [path.parent for pattern in patterns for path in sorted(records.glob(pattern))]
    current = [folder for folder in found if folder.name == schema.TFDS_VERSION]
    if len(current) == 1:
        return current[0]
    if current:
        listed = ", ".join(str(folder) for folder in current)
        raise RecordError(f"{records} holds several sets: name one of {listed}")
    if found:
        raise _other_version(found[0], found[0].name)
    started = any(records.glob("**/*.tfrecord-*"))
    state = "the conversion there has not finished: run the same command again" if started else f"make one: {_CONVERT}"
    raise RecordError(f"{records} holds no converted set{f' of task {task!r}' if task else ''}; {state}")


def _other_version(folder: Path, version: object) -> RecordError:
    return RecordError(
        f"{folder} was made by version {version} of the record schema, this code reads version "
        f"{schema.SCHEMA_VERSION}: convert the data set again ({_CONVERT})"
    )
