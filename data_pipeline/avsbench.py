"""AVSBench as published: S4 (one source), MS3 (several) and AVSS (AVSBench-semantic), found, checked and read.

    samples = find("s4", "/data/AVSBench/Single-source")
    problems = check(samples)
    clip = read(samples[0])

The layouts, T frames of one second each:

S4, T = 5: `s4_meta_data.csv` (first column the video; `category`, `split`), and in `s4_data/`
  `visual_frames/<split>/<category>/<video>/<video>_{1..5}.png`, `gt_masks/` likewise (in training only the first mask
  is read), `audio_log_mel/<split>/<category>/<video>.pkl`.
MS3, T = 5: `ms3_meta_data.csv` (first column the video; `split`), and in `ms3_data/`
  `visual_frames/<video>/<video>.mp4_{1..5}.png`, `gt_masks/<split>/<video>/<video>_{1..5}.png`,
  `audio_log_mel/<split>/<video>.pkl`.
AVSS, T = 10: `metadata.csv` (`uid`, `label`, `split`), `label2idx.json` (71 classes), and in `<label>/<uid>/`
  `frames/{0..}.jpg`, `labels_rgb/{0..}.png` in the classes' colours, `audio.wav`. The label is the subset: v1s and v1m
  have 5 frames, v2 has 10; of v1s only the first mask counts in training.

Beside the log-mels of S4 and MS3, wav files in `audio_wav/` (same names) are found if they are there; so are, for all
three, pre-segmented images (see `pre_masks`).
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from data_pipeline import audio, labels, places, pre_masks, rawfiles
from data_pipeline.problems import RESTORE, BadFile, DataError, Findings, Problem, read_bytes, read_table

__all__ = ["SPLITS", "TASKS", "Clip", "DataError", "Problem", "Sample", "check", "find", "read"]

TASKS = ("s4", "ms3", "avss")
SPLITS = ("train", "val", "test")
_SUBSETS = {"v1s": 5, "v1m": 5, "v2": 10}  # of AVSS, and their frames


@dataclasses.dataclass(frozen=True)
class Sample:
    """Where one clip's files are, and which of its T frames are real and annotated.

    Attributes:
      task: "s4", "ms3" or "avss".
      name: S4, MS3: the video; AVSS: the uid.
      split: "train", "val" or "test".
      category: S4: the kind of the sounding object; elsewhere empty.
      subset: AVSS: "v1s", "v1m" or "v2"; elsewhere empty.
      frames: encoded images, one a second, at most T.
      masks: mask k belongs to frame k; at most as many as frames.
      log_mel: S4, MS3: the pickled log-mel; AVSS: None.
      wav: the sound; S4, MS3: None where the data set has been unpacked without it.
      num_frames: T.
      pre_masks: pre-segmented images, one for each frame; none where the data set has been unpacked without them.
      frame_valid, mask_valid: T flags each, a real frame; an annotated frame.
    """

    task: str
    name: str
    split: str
    category: str
    subset: str
    frames: tuple[Path, ...]
    masks: tuple[Path, ...]
    log_mel: Path | None
    wav: Path | None
    num_frames: int
    pre_masks: tuple[Path, ...] = ()

    @property
    def frame_valid(self) -> tuple[bool, ...]:
        return tuple(k < len(self.frames) for k in range(self.num_frames))

    @property
    def mask_valid(self) -> tuple[bool, ...]:
        return tuple(k < len(self.masks) for k in range(self.num_frames))


@dataclasses.dataclass(frozen=True)
class Clip:
    """What a sample's files hold.

    Attributes:
      frames: the encoded images as they are stored.
      masks: (h, w) uint8 class indices at the stored size, for the first frames; 0 and 1 in S4 and MS3.
      log_mel: (T, 96, 64) float32.
      waveform: (n,) int16, mono, 16 kHz; None where the data set has no wav.
      pre_masks: the encoded pre-segmented images, one for each frame or none.
    """

    frames: tuple[bytes, ...]
    masks: tuple[np.ndarray, ...]
    log_mel: np.ndarray
    waveform: np.ndarray | None
    pre_masks: tuple[bytes, ...] = ()


# Finding


def find(task: str, root: str | os.PathLike, split: str | None = None) -> list[Sample]:
    """The clips that the data set's table lists, in its order, of all splits or of one. No other file is opened.

    Raises:
      DataError: the table is missing, lacks a column, or has rows that make no sense; all are listed.
      ValueError: no such task or split.
    """
    if task not in TASKS or split not in (None, *SPLITS):
        raise ValueError(f"no task {task!r} or split {split!r}: {', '.join(TASKS)}; {', '.join(SPLITS)}")
    root, findings = places.at(root), Findings()
    if task == "avss":
        findings.attempt(_check_class_list, root / "label2idx.json")
    samples = findings.attempt(_read_samples, root, _LAYOUTS[task], findings)
    findings.raise_any()
    return [sample for sample in samples if split in (None, sample.split)]


@dataclasses.dataclass(frozen=True)
class _Layout:
    """A task's table, the columns it must have, and what makes a sample of one of its rows."""

    table: str
    columns: tuple[str, ...]
    sample: Callable[[Path, str, dict[str, str]], Sample]


def _read_samples(root: Path, layout: _Layout, findings: Findings) -> list[Sample]:
    """The samples of the table's good rows; what is wrong with the others goes to `findings`."""
    path = root / layout.table
    header, rows = read_table(path, layout.columns)
    samples, lines = [], {}
    for line, row in rows:
        name = row["uid" if "uid" in layout.columns else header[0]]
        wrong = _wrong_cell(name, row, layout.columns)
        if wrong:
            findings.add(path, f"line {line}: {wrong}", "correct the line, or remove it")
            continue
        sample = layout.sample(root, name, row)
        first = lines.setdefault(sample.frames[0], line)
        if first != line:
            findings.add(path, f"line {line} lists {name!r} again, after line {first}", "remove one of the lines")
        samples.append(sample)
    return samples


def _wrong_cell(name: str, row: dict[str, str], columns: Sequence[str]) -> str | None:
    """What is wrong with a row of the table, if anything."""
    if not name:
        return "the clip has no name"
    if row["split"] not in SPLITS:
        return f"split is {row['split']!r}, not one of {', '.join(SPLITS)}"
    if "category" in columns and not row["category"]:
        return f"clip {name} has no category"
    if "label" in columns and row["label"] not in _SUBSETS:
        return f"label is {row['label']!r}, not one of {', '.join(_SUBSETS)}"
    return None


def _s4_sample(root: Path, name: str, row: dict[str, str]) -> Sample:
    data, split, category = root / "s4_data", row["split"], row["category"]
    inner, annotated = Path(split, category), 1 if split == "train" else 5
    return Sample(
        task="s4",
        name=name,
        split=split,
        category=category,
        subset="",
        frames=tuple(data / "visual_frames" / inner / name / f"{name}_{k}.png" for k in range(1, 6)),
        masks=tuple(data / "gt_masks" / inner / name / f"{name}_{k}.png" for k in range(1, annotated + 1)),
        log_mel=data / "audio_log_mel" / inner / f"{name}.pkl",
        wav=_if_there(data / "audio_wav" / inner / f"{name}.wav"),
        num_frames=5,
        pre_masks=pre_masks.find(data / pre_masks.FOLDER / inner / name, [f"{name}_{k}" for k in range(1, 6)]),
    )


def _ms3_sample(root: Path, name: str, row: dict[str, str]) -> Sample:
    data, split = root / "ms3_data", row["split"]
    return Sample(
        task="ms3",
        name=name,
        split=split,
        category="",
        subset="",
        frames=tuple(data / "visual_frames" / name / f"{name}.mp4_{k}.png" for k in range(1, 6)),
        masks=tuple(data / "gt_masks" / split / name / f"{name}_{k}.png" for k in range(1, 6)),
        log_mel=data / "audio_log_mel" / split / f"{name}.pkl",
        wav=_if_there(data / "audio_wav" / split / f"{name}.wav"),
        num_frames=5,
        pre_masks=pre_masks.find(data / pre_masks.FOLDER / name, [f"{name}.mp4_{k}" for k in range(1, 6)]),
    )


def _avss_sample(root: Path, name: str, row: dict[str, str]) -> Sample:
    split, subset = row["split"], row["label"]
    folder, count = root / subset / name, _SUBSETS[subset]
    segmented = root / pre_masks.FOLDER / "AVSBench_semantic" / subset / name / "frames"
    annotated = 1 if subset == "v1s" and split == "train" else count
    return Sample(
        task="avss",
        name=name,
        split=split,
        category="",
        subset=subset,
        frames=tuple(folder / "frames" / f"{k}.jpg" for k in range(count)),
        masks=tuple(folder / "labels_rgb" / f"{k}.png" for k in range(annotated)),
        log_mel=None,
        wav=folder / "audio.wav",
        num_frames=10,
        pre_masks=pre_masks.find(segmented, map(str, range(count))),
    )


_LAYOUTS = {
    "s4": _Layout("s4_meta_data.csv", ("category", "split"), _s4_sample),
    "ms3": _Layout("ms3_meta_data.csv", ("split",), _ms3_sample),
    "avss": _Layout("metadata.csv", ("uid", "label", "split"), _avss_sample),
}


def _if_there(path: Path) -> Path | None:
    return path if path.is_file() else None


def _check_class_list(path: Path) -> None:
    mend = "use the file that the data set was published with"
    content = read_bytes(path)
    try:
        classes = json.loads(content)
    except ValueError as error:
        raise BadFile(path, f"is no JSON ({error})", mend) from error
    if not isinstance(classes, dict) or len(classes) != len(labels.AVSS_CLASSES):
        found = f"{len(classes)} entries" if isinstance(classes, dict) else f"a {type(classes).__name__}"
        raise BadFile(path, f"has {found}; {len(labels.AVSS_CLASSES)} classes by name are expected", mend)


# Checking and reading


def check(samples: Sequence[Sample]) -> list[Problem]:
    """Everything that is missing or damaged in the clips' files, in the clips' order: every file is decoded."""
    return [problem for sample in samples for problem in _check_sample(sample)]


def read(sample: Sample) -> Clip:
    """Reads a clip. Frames are not decoded: `check` does that.

    Raises: DataError where files are missing or damaged; all of the clip's are listed.
    """
    findings = Findings(sample.name)
    frames = [findings.attempt(read_bytes, path) for path in sample.frames]
    masks = [findings.attempt(_read_mask, path, sample.task) for path in sample.masks]
    segmented = [findings.attempt(read_bytes, path) for path in sample.pre_masks]
    heard = None if sample.wav is None else findings.attempt(audio.read_mono_16k, sample.wav)
    if sample.log_mel is not None:
        log_mel = findings.attempt(rawfiles.read_log_mel, sample.log_mel, sample.num_frames)
    elif heard is not None:
        log_mel = findings.attempt(rawfiles.make_log_mel, heard, sample.wav, sample.num_frames)
    findings.raise_any()
    waveform = None if heard is None else audio.to_int16(heard)
    return Clip(tuple(frames), tuple(masks), log_mel, waveform, tuple(segmented))


def _check_sample(sample: Sample) -> list[Problem]:
    findings = Findings(sample.name)
    frames = [findings.attempt(rawfiles.read_image, path) for path in sample.frames]
    sizes = [(path, frame.size) for path, frame in zip(sample.frames, frames, strict=True) if frame is not None]
    for path, size in sizes[1:]:
        if size != sizes[0][1]:
            _add_other_size(findings, path, size, "the clip's first frame", sizes[0][1])
    for path, frame in zip(sample.masks, frames, strict=False):
        mask = findings.attempt(rawfiles.read_image, path)
        if mask is None:
            continue
        findings.attempt(rawfiles.mask_indices, mask, path, sample.task)
        if frame is not None and frame.size != mask.size:
            _add_other_size(findings, path, mask.size, "its frame", frame.size)
    for path in sample.pre_masks:
        findings.attempt(rawfiles.read_image, path)
    if sample.log_mel is not None:
        findings.attempt(rawfiles.read_log_mel, sample.log_mel, sample.num_frames)
    heard = None if sample.wav is None else findings.attempt(audio.read_mono_16k, sample.wav)
    if sample.log_mel is None and heard is not None:
        findings.attempt(rawfiles.check_length, heard, sample.wav, sample.num_frames)
    return findings.problems


def _add_other_size(findings: Findings, path: Path, size: tuple, other: str, other_size: tuple) -> None:
    (w, h), (width, height) = size, other_size
    findings.add(path, f"is {w} x {h} where {other} is {width} x {height}", RESTORE)


def _read_mask(path: Path, task: str) -> np.ndarray:
    return rawfiles.mask_indices(rawfiles.read_image(path), path, task)
