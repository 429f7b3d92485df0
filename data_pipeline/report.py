"""What a conversion did, or why it could not."""

from __future__ import annotations

import dataclasses
from pathlib import Path


class ConvertError(RuntimeError):
    """The conversion cannot go on; the message says why, what was kept, and the mend."""


@dataclasses.dataclass(frozen=True)
class Report:
    """What a conversion did.

    Attributes:
      folder: the converted set.
      task: "s4", "ms3" or "avss".
      splits: for each split its clips, frames, masks and bytes.
      problems: one line for each thing that is wrong with the raw data; its clips were left out.
      shards_written, shards_kept: kept ones were complete before this run.
      seconds: wall time of this run.
    """

    folder: str
    task: str
    splits: dict[str, dict[str, int]]
    problems: list[str]
    shards_written: int
    shards_kept: int
    seconds: float

    def __str__(self) -> str:
        lines = [f"{self.folder}", f"{'split':<8}{'clips':>8}{'frames':>9}{'masks':>9}{'MB':>10}"]
        for name, n in self.splits.items():
            lines.append(f"{name:<8}{n['clips']:>8}{n['frames']:>9}{n['masks']:>9}{n['bytes'] / 1e6:>10.1f}")
        shards_done = f"{self.shards_written} shards written, {self.shards_kept} kept"
        lines.append(f"{shards_done}, {len(self.problems)} problems, {self.seconds:.1f} s")
        return "\n".join([*lines, *self.problems])


def holds_another(folder: Path) -> ConvertError:
    return ConvertError(
        f"{folder} holds a complete set made from other data or settings; it was left as it is: "
        "choose another --out, or remove that folder first"
    )
