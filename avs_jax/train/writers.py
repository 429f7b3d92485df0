"""Where metrics go: JSON lines always, TensorBoard beside them. Only the primary process writes."""

from __future__ import annotations

import json
import math
import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import simplejpeg
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary


class Writer(Protocol):
    """What takes metrics. Names are paths, such as "train/loss"; steps count from 0."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    def images(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """Takes uint8 RGB images (H,W,3)."""

    def text(self, step: int, values: Mapping[str, str]) -> None: ...

    def rewind(self, step: int) -> None:
        """Forgets what was written of later steps, before a run goes on from `step`."""

    def flush(self) -> None: ...

    def close(self) -> None: ...


def create_writers(workdir: str | os.PathLike, primary: bool = True) -> Writer:
    """The writers of a run: `metrics.jsonl` and `tensorboard/` in `workdir`; none where the process is not primary."""
    if not primary:
        return MultiWriter(())
    workdir = pathlib.Path(workdir)
    return MultiWriter([JsonLinesWriter(workdir / "metrics.jsonl"), TensorBoardWriter(workdir / "tensorboard")])


class JsonLinesWriter:
    """One JSON object a line, {"step": 3, "train/loss": 0.5}; what is not a finite number is null. Images are left out.

    A line is appended in one piece; one torn by a kill or a full disk is dropped when the file is opened next.
    """

    def __init__(self, path: str | os.PathLike):
        self._path = pathlib.Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._open(until=math.inf)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        numbers = {name: float(value) for name, value in values.items()}
        self._append(step, {name: number if math.isfinite(number) else None for name, number in numbers.items()})

    def images(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """JSON has no place for them."""

    def text(self, step: int, values: Mapping[str, str]) -> None:
        self._append(step, values)

    def rewind(self, step: int) -> None:
        os.close(self._file)
        self._open(until=step)

    def flush(self) -> None:
        os.fsync(self._file)

    def close(self) -> None:
        self.flush()
        os.close(self._file)

    def _append(self, step: int, values: Mapping[str, object]) -> None:
        os.write(self._file, (json.dumps({"step": int(step), **values}) + "\n").encode())

    def _open(self, until: float) -> None:
        before = self._path.read_text() if self._path.exists() else ""
        kept = "".join(line + "\n" for line in before.split("\n") if _step(line) <= until)
        if kept != before:
            write_text(self._path, kept)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


def _step(line: str) -> float:
    """The step of a line; not a number, which is before and after nothing, if the line was torn."""
    try:
        return json.loads(line)["step"]
    except ValueError:
        return math.nan


class TensorBoardWriter:
    """TensorBoard event files in a folder, which are only made when there is something to write.

    Scalars are on disk at once, the rest when flushed; tensorboardX's usual writer has a thread, which loses errors.
    """

    def __init__(self, folder: str | os.PathLike):
        self._folder = pathlib.Path(folder)
        self._events: EventsWriter | None = None
        self._purge_step: int | None = None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._write(step, Summary(value=[Summary.Value(tag=name, simple_value=float(values[name])) for name in values]))
        self.flush()

    def images(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        for name, pixels in values.items():
            # As JPEG: tensorboardX's own PNG takes 40 times as long, and an evaluation would wait for it.
            encoded = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=92)
            size = {"height": pixels.shape[0], "width": pixels.shape[1], "colorspace": 3}
            shown = Summary.Image(encoded_image_string=encoded, **size)
            self._write(step, Summary(value=[Summary.Value(tag=name, image=shown)]))

    def text(self, step: int, values: Mapping[str, str]) -> None:
        for name, value in values.items():
            self._write(step, summary.text(name, value))

    def rewind(self, step: int) -> None:
        # Event files are only ever appended to: a mark in the next one tells TensorBoard what to forget.
        self.close()
        self._purge_step = step + 1

    def flush(self) -> None:
        if self._events:
            self._events.flush()

    def close(self) -> None:
        if self._events:
            self._events.close()
        self._events = None

    def _write(self, step: int, values: Summary) -> None:
        if self._events is None:
            self._open()
        self._events.write_event(Event(wall_time=time.time(), step=step, summary=values))

    def _open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        # File names hold whole seconds: the suffix keeps a quick restart from writing over the file before.
        self._events = EventsWriter(str(self._folder / "events"), f".{time.time_ns()}")
        if self._purge_step is not None:
            mark = SessionLog(status=SessionLog.START)
            self._events.write_event(Event(wall_time=time.time(), step=self._purge_step, session_log=mark))


class MultiWriter:
    """Hands everything to several writers; of none, it is the null object."""

    def __init__(self, writers: Sequence[Writer]):
        self._writers = tuple(writers)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for writer in self._writers:
            writer.scalars(step, values)

    def images(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        for writer in self._writers:
            writer.images(step, values)

    def text(self, step: int, values: Mapping[str, str]) -> None:
        for writer in self._writers:
            writer.text(step, values)

    def rewind(self, step: int) -> None:
        for writer in self._writers:
            writer.rewind(step)

    def flush(self) -> None:
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a file whole or not at all: what is read at `path` is never half of it."""
    path = pathlib.Path(path)
    partial = path.with_name(path.name + ".partial")
    with open(partial, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
