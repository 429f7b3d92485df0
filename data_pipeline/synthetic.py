"""Synthetic audio-visual clips, written in the published raw layouts of S4, MS3 and AVSS (see SYNTHETIC.md).

    python -m data_pipeline.synthetic --task s4 --out DIR --train 200 --val 50 --test 50

`make_clip` gives one clip as arrays; `write` writes a set with the file names and formats of AVSBench, so that whatever
reads AVSBench reads it; `bound` says how well a model that ignores the sound can do on some clips.
"""

from __future__ import annotations

import argparse
import csv
import functools
import json
import os
import wave
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from data_pipeline import audio, labels, torch_file, workers
from data_pipeline.synthetic_bound import bound
from data_pipeline.synthetic_clip import SAMPLE_RATE, SPLITS, TASKS, VERSION, Clip, RecipeError, check, make_clip

__all__ = ["Clip", "bound", "main", "make_clip", "write"]

_TABLES = {"s4": "s4_meta_data.csv", "ms3": "ms3_meta_data.csv", "avss": "metadata.csv"}
_COLUMNS = {
    "s4": ("name", "start", "category", "split"),
    "ms3": ("name", "split"),
    "avss": ("vid", "uid", "s_min", "s_sec", "a_obj", "split", "label"),
}


def write(
    task: str,
    root: str | os.PathLike,
    clips: Mapping[str, int],
    size: tuple[int, int] = (224, 224),
    seed: int = 0,
    processes: int | None = None,
    progress: bool = True,
) -> None:
    """Writes a raw data set, or does nothing where this very set already is.

    The table that lists the clips comes last: a set cut short has none, and is written anew. `synthetic.json` says what
    was asked for.

    Args:
      task: "s4", "ms3" or "avss".
      root: the folder that gets the table and the data; made if need be.
      clips: how many clips each split has, e.g. {"train": 200, "val": 50, "test": 50}; splits left out are empty.
      size: height and width of the frames in pixels.
      seed: of the set. The files do not depend on the number of processes.
      processes: how many write, one for each core if None. With more than one, the program's own start must be behind
        `if __name__ == "__main__":`, as for any use of `multiprocessing`.
      progress: show a progress bar on a terminal.

    Raises:
      RecipeError: for an unknown task or split, a negative number of clips or none at all, or a seed or size that
        `make_clip` refuses; nothing is written then.
      FileExistsError: if root holds another set of this task, synthetic or real.
    """
    root = Path(root)
    check(task, SPLITS[0], 0, seed, size)
    if not set(clips) <= set(SPLITS) or min(clips.values(), default=0) < 0 or not any(clips.values()):
        raise RecipeError(f"clips is {dict(clips)}; give numbers >= 0 for {', '.join(SPLITS)}, not all of them 0")
    table, recipe = root / _TABLES[task], root / "synthetic.json"
    counts = {split: clips.get(split, 0) for split in SPLITS}
    wanted = {"version": VERSION, "task": task, "clips": counts, "size": list(size), "seed": seed}
    if table.exists():
        if recipe.exists() and json.loads(recipe.read_text()) == wanted:
            return
        raise FileExistsError(f"{table}: the folder already holds another {task} set; give another folder or remove it")
    jobs = [(split, index) for split in SPLITS for index in range(counts[split])]
    work = functools.partial(_make_and_write, task, root, seed, size)
    _folder(root)
    recipe.write_text(json.dumps(wanted, indent=1))
    written = workers.run(work, jobs, processes, chunk=4)
    shown = tqdm(written, total=len(jobs), desc=f"writing {task}", unit="clip", disable=None if progress else True)
    rows = [row for _, row in sorted(shown)]
    if task == "avss":
        (root / "label2idx.json").write_text(
            json.dumps({name: i for i, name in enumerate(labels.AVSS_CLASSES)}, indent=1)
        )
    unfinished = table.with_suffix(".unfinished")
    with unfinished.open("w", newline="") as file:
        csv.writer(file).writerows([_COLUMNS[task], *rows])
    unfinished.replace(table)


def _make_and_write(task: str, root: Path, seed: int, size: tuple[int, int], job: tuple[str, int]) -> tuple:
    """Makes a clip, writes its files and returns its row of the table."""
    split, index = job
    clip = make_clip(task, split, index, seed, size)
    return {"s4": _write_s4, "ms3": _write_ms3, "avss": _write_avss}[task](root, clip)


def _write_s4(root: Path, clip: Clip) -> tuple:
    data, inner = root / "s4_data", Path(clip.split, clip.category)
    images = _folder(data / "visual_frames" / inner / clip.name)
    masks = _folder(data / "gt_masks" / inner / clip.name)
    for number, (frame, mask, annotated) in enumerate(zip(clip.frames, clip.masks, clip.mask_valid, strict=True), 1):
        _save_image(images / f"{clip.name}_{number}.png", frame)
        if annotated:
            _save_image(masks / f"{clip.name}_{number}.png", mask * np.uint8(255))
    _save_sound(data, inner, clip)
    return clip.name, 0, clip.category, clip.split


def _write_ms3(root: Path, clip: Clip) -> tuple:
    data, inner = root / "ms3_data", Path(clip.split)
    images = _folder(data / "visual_frames" / clip.name)
    masks = _folder(data / "gt_masks" / inner / clip.name)
    for number, (frame, mask) in enumerate(zip(clip.frames, clip.masks, strict=True), 1):
        _save_image(images / f"{clip.name}.mp4_{number}.png", frame)
        _save_image(masks / f"{clip.name}_{number}.png", mask * np.uint8(255))
    _save_sound(data, inner, clip)
    return clip.name, clip.split


def _write_avss(root: Path, clip: Clip) -> tuple:
    folder = root / clip.subset / clip.name
    images, masks = _folder(folder / "frames"), _folder(folder / "labels_rgb")
    for number, (frame, mask, annotated) in enumerate(zip(clip.frames, clip.masks, clip.mask_valid, strict=True)):
        _save_image(images / f"{number}.jpg", frame)
        if annotated:
            _save_image(masks / f"{number}.png", labels.indices_to_colours(mask))
    _save_wav(folder / "audio.wav", clip.waveform)
    heard = [kind for kind, active in zip(clip.kinds, clip.sounding.any(axis=0), strict=True) if active]
    return clip.name, clip.name, 0, 0, "_".join(sorted(heard)), clip.split, clip.subset


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _save_image(path: Path, pixels: np.ndarray) -> None:
    """Writes a PNG (with a quick compression) or a JPEG, by the name's ending."""
    options = {"quality": 92} if path.suffix == ".jpg" else {"compress_level": 1, "compress_type": zlib.Z_RLE}
    Image.fromarray(pixels).save(path, **options)


def _save_sound(data: Path, inner: Path, clip: Clip) -> None:
    """Writes the wav and the pickled (5, 1, 96, 64) log-mel of an S4 or MS3 clip."""
    _save_wav(_folder(data / "audio_wav" / inner) / f"{clip.name}.wav", clip.waveform)
    examples = audio.log_mel(audio.from_int16(clip.waveform), SAMPLE_RATE)[:, None]
    path = _folder(data / "audio_log_mel" / inner) / f"{clip.name}.pkl"
    torch_file.save_pickled_tensor(path, examples)


def _save_wav(path: Path, waveform: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, len(waveform), "NONE", ""))
        file.writeframes(waveform.astype("<i2").tobytes())


def main(arguments: list[str] | None = None) -> None:
    """The command line: see the module's description."""
    parser = argparse.ArgumentParser(prog="python -m data_pipeline.synthetic", description=__doc__.partition("\n")[0])
    parser.add_argument("--task", required=True, choices=TASKS)
    parser.add_argument("--out", required=True, type=Path, help="folder to write into")
    for split in SPLITS:
        parser.add_argument(f"--{split}", type=int, default=0, metavar="N", help=f"clips of the {split} split")
    parser.add_argument("--size", type=int, nargs=2, default=(224, 224), metavar=("H", "W"), help="pixels of a frame")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=None, help="default: one for each CPU")
    options = parser.parse_args(arguments)
    clips = {split: getattr(options, split) for split in SPLITS}
    try:
        write(options.task, options.out, clips, tuple(options.size), options.seed, options.processes)
    except (FileExistsError, RecipeError) as error:
        parser.error(str(error))
    print(f"{options.out} holds {', '.join(f'{n} {split}' for split, n in clips.items())} clips of {options.task}")


if __name__ == "__main__":
    main()
