"""What can be wrong with raw data: an error for one file, and an error that lists everything at once."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

SHOWN = 50  # problems in the message of a DataError; all of them are in its `problems`

RESTORE = "restore it from the data set's archive, or leave the clip out of the table"


class BadFile(ValueError):
    """A file that cannot be used: which one, what is wrong with it, and what mends it."""

    def __init__(self, file: str | Path, what: str, mend: str):
        super().__init__(file, what, mend)
        self.file, self.what, self.mend = file, what, mend

    def __str__(self) -> str:
        return f"{self.file}: {self.what}. To mend it: {self.mend}."


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing that is missing or damaged in a raw data set."""

    clip: str  # the clip's name, or "" where the whole data set is meant
    file: str | Path
    what: str
    mend: str

    def __str__(self) -> str:
        clip = f"clip {self.clip}: " if self.clip else ""
        return f"{clip}{BadFile(self.file, self.what, self.mend)}"


class DataError(ValueError):
    """Everything that is wrong with a raw data set, in `problems` and, up to the first 50, in the message."""

    def __init__(self, problems: Iterable[Problem]):
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        count = len(self.problems)
        lines = [f"{count} problem{'s' if count != 1 else ''} in the raw data:"]
        lines += [f"  {problem}" for problem in self.problems[:SHOWN]]
        if count > SHOWN:
            lines.append(f"  ... and {count - SHOWN} more")
        return "\n".join(lines)


class Findings:
    """Calls readers of files one after the other and collects what they find wrong with one clip."""

    def __init__(self, clip: str = ""):
        self.clip = clip
        self.problems: list[Problem] = []

    def attempt(self, reader: Callable[..., Any], *args: Any) -> Any:
        """The reader's result, or None where it raised BadFile, which is then among the problems."""
        try:
            return reader(*args)
        except BadFile as error:
            self.add(error.file, error.what, error.mend)
            return None

    def add(self, file: str | Path, what: str, mend: str) -> None:
        self.problems.append(Problem(self.clip, file, what, mend))

    def raise_any(self) -> None:
        """Raises: DataError if anything was found."""
        if self.problems:
            raise DataError(self.problems)


def read_bytes(path: Path) -> bytes:
    """The file's bytes. Raises BadFile where it is missing, unreadable or empty."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise BadFile(path, "the file is missing", RESTORE) from None
    except OSError as error:
        raise BadFile(path, f"cannot be read ({error.strerror})", "check the path and its permissions") from error
    if not data:
        raise BadFile(path, "the file is empty", RESTORE)
    return data


def read_table(path: Path, columns: Sequence[str]) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """A csv file's column names, and its rows with their line numbers; blank lines are left out.

    Raises: BadFile where the file is missing, is not text or no csv, has no rows, lacks one of `columns`, or has a row
    that is shorter than the header.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadFile(path, f"is not UTF-8 text ({error.reason})", "save the table as UTF-8 csv") from error
    reader = csv.reader(text.splitlines())
    try:
        lines = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        what = f"line {reader.line_num} cannot be read as csv ({error})"
        raise BadFile(path, what, "correct the line (is a quotation mark left open?)") from error
    header = [name.strip() for name in lines[0][1]] if lines else []
    missing = [name for name in columns if name not in header]
    if missing:
        raise BadFile(
            path,
            f"lacks the column{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))} (its columns are "
            f"{', '.join(map(repr, header)) or 'none'})",
            "use the table that the data set was published with, or add the column",
        )
    rows = []
    for line, row in lines[1:]:
        if not any(cell.strip() for cell in row):
            continue
        if len(row) < len(header):
            raise BadFile(
                path,
                f"line {line} has {len(row)} cells where the header has {len(header)}",
                "complete the line, or remove it",
            )
        rows.append((line, {name: cell.strip() for name, cell in zip(header, row, strict=False)}))
    if not rows:
        raise BadFile(path, "lists no clips", "use the table that the data set was published with")
    return header, rows
