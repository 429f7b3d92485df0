"""What a conversion did, tensor by tensor, and how many numbers the parts of the model hold."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from avs_jax.convert.rules import Dead, Rule, Table

PARAMETERS, STATISTICS, UNUSED = "parameters", "statistics", "never used"
COLUMNS = ("source", "target", "shape", "dtype", "norm")


@dataclasses.dataclass(frozen=True)
class Row:
    """One tensor of the authors' state dict.

    Attributes:
      source: its name there.
      target: its place in our variables, several where it is taken apart; empty if the model never uses it.
      shape: its shape there.
      dtype: its element type in the file.
      norm: its l2 norm, in float64.
      kind: PARAMETERS, STATISTICS (of batch norms) or UNUSED.
    """

    source: str
    target: str
    shape: tuple[int, ...]
    dtype: str
    norm: float
    kind: str

    @property
    def part(self) -> str:
        """The top-level part of the model that it belongs to."""
        return (self.target.split("/")[1] if self.target else self.source.split(".")[0]) or "-"

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


def rows(state_dict: Mapping[str, np.ndarray], table: Table) -> list[Row]:
    """The report's rows, in the order of the table; entries that the file need not have and lacks are left out."""
    return [_row(entry, state_dict[entry.source]) for entry in table if entry.source in state_dict]


def counts(report: Sequence[Row]) -> dict[str, collections.Counter]:
    """Numbers held, {part: {kind: count}}; PyTorch's integer counters are no parameters and are not counted."""
    found: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for row in report:
        if not row.dtype.startswith("int"):
            found[row.part][row.kind] += row.size
    return dict(found)


def text(report: Sequence[Row]) -> str:
    """The report as tab-separated columns, with a line of their names."""
    lines = ["\t".join(COLUMNS)]
    for row in report:
        shape = "x".join(map(str, row.shape)) or "scalar"
        lines.append("\t".join((row.source, row.target or f"({UNUSED})", shape, row.dtype, f"{row.norm:.6g}")))
    return "\n".join(lines) + "\n"


def summary(report: Sequence[Row]) -> str:
    """The counts as a table with their sums, and the number of parameters as PyTorch counts them."""
    parts = counts(report)
    parts["total"] = sum(parts.values(), collections.Counter())
    kinds = (PARAMETERS, UNUSED, STATISTICS)
    lines = [f"{'':<16}" + "".join(f"{kind:>14}" for kind in kinds)]
    lines += [f"{part:<16}" + "".join(f"{found[kind]:>14,}" for kind in kinds) for part, found in parts.items()]
    pytorch = parts["total"][PARAMETERS] + parts["total"][UNUSED]
    return "\n".join([*lines, f"as PyTorch counts: {pytorch:,} parameters in {len(report)} tensors"])


def _row(entry: Rule | Dead, array: np.ndarray) -> Row:
    is_dead = isinstance(entry, Dead)
    statistic = entry.collection == "batch_stats"
    flat = array.astype(np.float64).ravel()
    block = "" if is_dead or entry.block is None else f"[{entry.block}]"
    return Row(
        source=entry.source,
        target="" if is_dead else " + ".join(f"{path}{block}" for path in entry.targets),
        shape=tuple(array.shape),
        dtype=str(array.dtype),
        norm=float(np.sqrt(flat @ flat)),
        kind=UNUSED if is_dead and not statistic else STATISTICS if statistic else PARAMETERS,
    )
