"""Raw data set -> sharded TFRecord, in several processes, resumable, with a report.

    python -m data_pipeline.convert --dataset s4 --source /data/AVSBench/Single-source --out records
    python -m data_pipeline.convert --dataset synthetic --task ms3 --clips 200,40,40 --out records
    python -m data_pipeline.convert --dataset avss --source RAW --out records --cache-audio vggish-10086976.pth

Everything is checked first, and everything that is missing or damaged is listed at once (`--on-problem=skip` converts
the rest). Shards appear under their names only when whole, `dataset_info.json` only after the last of them, so a set
that was cut short never looks whole; the same command goes on where it stopped. The result is a TFDS data set
(`tfds.builder_from_directory("records/avsbench_s4/1.0.0")`), which TensorFlow reads too.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import fcntl
import functools
import importlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import tqdm

from data_pipeline import audio_cache, avsbench, places, records, shards, workers
from data_pipeline.problems import BadFile
from data_pipeline.report import ConvertError, Report, holds_another
from data_pipeline.synthetic import write as write_synthetic
from data_pipeline.synthetic_clip import VERSION, RecipeError
from data_pipeline.tfrecord import RecordError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def convert(
    task: str,
    source: str | os.PathLike,
    out: str | os.PathLike,
    *,
    processes: int | None = None,
    shards_per_split: int | None = None,
    skip_damaged: bool = False,
    progress: bool = True,
    origin: dict | None = None,
    cache: audio_cache.AudioCache | None = None,
) -> Report:
    """Converts the raw data set of `task` in `source` into `out/avsbench_<task>/<version>`.

    Args:
      task: "s4", "ms3" or "avss".
      source: the published folder layout (see `avsbench.find`).
      out: the output folder; made if missing.
      processes: as many as there are cores, unless given.
      shards_per_split: by size, unless given.
      skip_damaged: convert the clips without problems and report the others, instead of raising before any work.
      progress: show progress bars on a terminal.
      origin: what to note in the metadata of where the data come from.
      cache: gives the records audio embeddings; shards are then written in this process, which has the accelerator.

    Raises:
      avsbench.DataError: the raw data are missing or damaged; all problems are listed.
      ConvertError: the output cannot be written, or holds another complete set.
    """
    if places.is_remote(out):
        raise ConvertError(f"{out} is not a folder of this machine: the way to write there is --runner beam")
    start = time.monotonic()
    samples = avsbench.find(task, source)
    problems, found = _inspect(samples, processes, progress)
    if problems and not (skip_damaged and any(found)):
        raise avsbench.DataError(problems)
    kept = [sample for sample, raw in zip(samples, found, strict=True) if raw]
    folder = records.set_folder(out, task)
    planned = shards.plan(task, folder, kept, [raw for raw in found if raw], shards_per_split, cache)
    with _storage_errors(planned), _alone(folder):
        complete = _accept_existing(folder, planned)
        todo = [shard for shard in planned if not shard.is_complete()]
        if todo or not complete:
            (folder / records.INFO_FILE).unlink(missing_ok=True)
            shards.clear_leftovers(folder, planned)
        _write(todo, len(kept), 1 if cache else processes, progress, cache)
        report = Report(
            folder=os.fspath(folder),
            task=task,
            splits=shards.count_splits(planned),
            problems=[str(problem) for problem in problems],
            shards_written=len(todo),
            shards_kept=len(planned) - len(todo),
            seconds=time.monotonic() - start,
        )
        if todo or not complete:
            shards.write_report(folder, dataclasses.asdict(report))
            shards.write_metadata(folder, task, planned, shards.categories(kept), origin or {}, cache)
    return report


def synthetic(
    task: str,
    out: str | os.PathLike,
    *,
    clips: dict[str, int],
    size: tuple[int, int] = (224, 224),
    seed: int = 0,
    source: str | os.PathLike | None = None,
    processes: int | None = None,
    progress: bool = True,
    cache: audio_cache.AudioCache | None = None,
) -> Report | None:
    """Makes a synthetic raw data set and converts it; does nothing where just this set is already there.

    Args:
      task: "s4", "ms3" or "avss".
      out: the output folder for the records.
      clips: how many clips each split gets.
      size: height and width of the frames.
      seed: the same seed gives the same clips everywhere.
      source: where to put the raw files; `out/raw_<task>` unless given.
      processes, progress, cache: as for `convert`.

    Raises:
      ConvertError: `out` holds another complete set, or cannot be written; or there are no such clips.
    """
    origin = {"synthetic": {"version": VERSION, "clips": dict(clips), "size": list(size), "seed": seed}}
    folder = records.set_folder(out, task)
    if (folder / records.INFO_FILE).is_file():
        metadata = json.loads((folder / "metadata.json").read_text())
        if (metadata["origin"], metadata.get("vggish", "")) == (origin, cache.vggish if cache else ""):
            return None
        raise holds_another(folder)
    source = Path(source or Path(out) / f"raw_{task}")
    with _storage_errors([], source):
        try:
            write_synthetic(task, source, clips=clips, size=size, seed=seed, processes=processes, progress=progress)
        except (FileExistsError, RecipeError) as error:
            raise ConvertError(str(error)) from error
    return convert(task, source, out, processes=processes, progress=progress, origin=origin, cache=cache)


def _inspect(samples: Sequence[avsbench.Sample], processes: int | None, progress: bool):
    """Checks every clip: all problems, and each clip's raw source (None for a damaged clip), in order."""
    problems, found = [], [None] * len(samples)
    results = {}
    with _bar("checking", len(samples), progress) as bar:
        for index, result in workers.run(shards.inspect, samples, processes, chunk=32):
            results[index] = result
            bar.update()
    for index in sorted(results):
        trouble, found[index] = results[index]
        problems += trouble
    return problems, found


def _write(
    todo: Sequence[shards.Shard],
    clips: int,
    processes: int | None,
    progress: bool,
    cache: audio_cache.AudioCache | None,
) -> None:
    write = functools.partial(shards.write, cache=cache) if cache else shards.write
    done = clips - sum(len(shard.samples) for shard in todo)
    with _bar("converting", clips, progress, done) as bar:
        for index, _ in workers.run(write, todo, processes):
            bar.update(len(todo[index].samples))


def _bar(what: str, total: int, progress: bool, initial: int = 0) -> tqdm.tqdm:
    return tqdm.tqdm(total=total, initial=initial, desc=what, unit="clip", disable=None if progress else True)


def _accept_existing(folder: Path, planned: Sequence[shards.Shard]) -> bool:
    """Whether the folder holds this very set, finished; raises where it holds another one."""
    if not (folder / records.INFO_FILE).is_file():
        return False
    if records.open_set(folder).fingerprint != shards.set_fingerprint(planned):
        raise holds_another(folder)
    return True


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps two conversions from writing to one folder at the same time."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConvertError(f"another conversion is writing to {folder}: wait for it to end") from error
        yield


@contextlib.contextmanager
def _storage_errors(planned: Sequence[shards.Shard], folder: Path | None = None) -> Iterator[None]:
    """Turns a full disk or a folder that cannot be written into one error that says what was kept."""
    try:
        yield
    except OSError as error:
        place = folder or planned[0].path.parent
        mend = "free some space" if error.errno in _FULL else "check its permissions"
        kept = sum(shard.is_complete() for shard in planned)
        raise ConvertError(
            f"cannot write to {place}: {error.strerror or error}; {mend} or choose another --out. "
            f"{kept} of {len(planned)} shards are complete and kept: the same command goes on from there"
        ) from error


def _whole_numbers(text: str, count: int, least: int = 0) -> tuple[int, ...]:
    """Reads a flag's `count` numbers, with commas or x between them."""
    parts = text.replace("x", ",").split(",")
    if len(parts) != count or not all(part.strip().isdecimal() and int(part) >= least for part in parts):
        what = f"{count} whole numbers" if count > 1 else "a whole number"
        raise argparse.ArgumentTypeError(f"give {what} of at least {least}, not {text!r}")
    return tuple(map(int, parts))


def _positive(text: str) -> int:
    return _whole_numbers(text, 1, least=1)[0]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m data_pipeline.convert", description=__doc__.partition("\n")[0])
    parser.add_argument("--dataset", required=True, choices=(*avsbench.TASKS, "synthetic"))
    parser.add_argument("--task", choices=avsbench.TASKS, default="s4", help="of a synthetic set (default: s4)")
    parser.add_argument("--source", help="raw data in the published layout; synthetic: where to put them")
    parser.add_argument("--out", required=True, help="folder for the records")
    parser.add_argument("--processes", type=int, help="default: one a core")
    parser.add_argument("--shards", type=_positive, metavar="N", help="per split (default: by size, about 128 MB each)")
    parser.add_argument("--on-problem", choices=("stop", "skip"), default="stop", help="with damaged clips")
    three, two = (functools.partial(_whole_numbers, count=count) for count in (3, 2))
    parser.add_argument("--clips", type=three, default=(160, 20, 20), help="train,val,test")
    parser.add_argument("--size", type=two, default=(224, 224), help="synthetic HEIGHTxWIDTH")
    parser.add_argument("--seed", type=int, default=0, help="of a synthetic set")
    parser.add_argument("--cache-audio", metavar="VGGISH", help="its weights: stores their audio embeddings as well")
    parser.add_argument("--runner", choices=("local", "beam"), default="local", help="what does the work")
    parser.add_argument("--beam-options", default="", metavar="OPTIONS", help="Beam's, as one quoted argument")
    flags = parser.parse_args(arguments)
    if flags.dataset != "synthetic" and not flags.source:
        parser.error("--source is needed: the folder of the raw data set")
    if flags.runner == "beam" and flags.dataset == "synthetic":
        parser.error("--runner beam converts raw data: make them first, with --source, then convert that folder")
    try:
        report = _dispatch(flags)
    except (avsbench.DataError, BadFile, ConvertError, RecordError, workers.WorkerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(report or f"{records.set_folder(flags.out, flags.task)} already holds this synthetic set")
    return 0


def _dispatch(flags: argparse.Namespace) -> Report | None:
    cache = audio_cache.load(flags.cache_audio) if flags.cache_audio else None
    if flags.dataset == "synthetic":
        clips = dict(zip(avsbench.SPLITS, flags.clips, strict=True))
        where = {"source": flags.source, "processes": flags.processes, "cache": cache}
        return synthetic(flags.task, flags.out, clips=clips, size=flags.size, seed=flags.seed, **where)
    common = {"shards_per_split": flags.shards, "skip_damaged": flags.on_problem == "skip", "cache": cache}
    if flags.runner == "beam":
        try:
            beam = importlib.import_module("data_pipeline.beam")
        except ModuleNotFoundError as error:
            raise ConvertError("Beam is not installed: pip install '.[beam]' in an environment of its own") from error
        return beam.convert_on_beam(flags.dataset, flags.source, flags.out, options=flags.beam_options, **common)
    return convert(flags.dataset, flags.source, flags.out, processes=flags.processes, **common)


if __name__ == "__main__":
    sys.exit(main())
