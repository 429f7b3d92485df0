"""The engine that carries weights between PyTorch's state dicts and our variables, by a table of rules.

A table lists every entry of a state dict: a `Rule` says where an entry lies in our tree and how, a `Dead` entry is one
that the authors' model holds and never uses. Nothing may be left over on either side.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

COLLECTIONS = ("params", "batch_stats")
DEAD = "dead"  # the collection, flat under PyTorch's names, that keeps what the model never uses


class ConversionError(ValueError):
    """Weights that do not fit the model; the message lists all that is missing, left over or of a wrong shape."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one array of PyTorch lies in our tree: as one array, or as several."""

    split: Callable[[np.ndarray], Sequence[np.ndarray]]
    join: Callable[[Sequence[np.ndarray]], np.ndarray]


def _one(forward: Callable[[np.ndarray], np.ndarray], backward: Callable[[np.ndarray], np.ndarray]) -> Layout:
    return Layout(lambda array: (forward(array),), lambda arrays: backward(arrays[0]))


SAME = _one(lambda a: a, lambda a: a)
LINEAR = _one(np.transpose, np.transpose)  # (out, in) <-> (in, out)
CONV = _one(lambda a: a.transpose(2, 3, 1, 0), lambda a: a.transpose(3, 2, 0, 1))  # OIHW <-> HWIO, depthwise too
POINTWISE = _one(lambda a: a[:, :, 0, 0].T, lambda a: a.T[:, :, None, None])  # a 1x1 convolution as a linear layer


def stacked_linears(count: int) -> Layout:
    """`count` linear layers that PyTorch keeps as one: (count * out, in) <-> count times (in, out)."""
    return Layout(
        lambda array: [part.T for part in np.split(array, count)],
        lambda arrays: np.concatenate([part.T for part in arrays]),
    )


def stacked_vectors(count: int) -> Layout:
    """The biases of such layers: (count * out,) <-> count times (out,)."""
    return Layout(lambda array: np.split(array, count), np.concatenate)


@dataclasses.dataclass(frozen=True)
class Rule:
    """One entry of the state dict and its place in our tree.

    Attributes:
      source: its name there.
      shape: its shape there.
      targets: paths in our tree, collection first: "params/backbone/conv1/kernel".
      layout: how the array lies at the targets.
      block: its index on the leading axis, where the targets stack the blocks of a stage.
    """

    source: str
    shape: tuple[int, ...]
    targets: tuple[str, ...]
    layout: Layout = SAME
    block: int | None = None

    @property
    def collection(self) -> str:
        return self.targets[0].split("/")[0]


@dataclasses.dataclass(frozen=True)
class Dead:
    """An entry of the state dict that the model never uses: kept as it is; where nothing was kept, zeros or `value()`.

    Attributes:
      source: its name there.
      shape: its shape there.
      collection: which of our collections it would be in.
      dtype: of what it is given where nothing was kept.
      required: False where some published files lack it.
      value: makes it where nothing was kept and PyTorch would use it.
    """

    source: str
    shape: tuple[int, ...]
    collection: str = "params"
    dtype: str = "float32"
    required: bool = True
    value: Callable[[], np.ndarray] | None = None


Table = Sequence[Rule | Dead]


def flat(variables: Mapping) -> dict[str, np.ndarray]:
    """The arrays of variables by their paths, collection first: the names that our own checkpoints have."""
    dead = {f"{DEAD}/{name}": array for name, array in variables.get(DEAD, {}).items()}
    trees = {name: variables[name] for name in COLLECTIONS if variables.get(name)}
    return {path: np.asarray(array) for path, array in (traverse_util.flatten_dict(trees, sep="/") | dead).items()}


def unflat(arrays: Mapping[str, np.ndarray]) -> dict:
    """The inverse of `flat`."""
    trees = traverse_util.unflatten_dict({p: a for p, a in arrays.items() if not p.startswith(f"{DEAD}/")}, sep="/")
    dead = {p.removeprefix(f"{DEAD}/"): a for p, a in arrays.items() if p.startswith(f"{DEAD}/")}
    return {name: trees.get(name, {}) for name in COLLECTIONS} | {DEAD: dead}


def is_flat(state_dict: Mapping[str, np.ndarray]) -> bool:
    """Whether the names are those of `flat`, not PyTorch's."""
    return bool(state_dict) and all(name.partition("/")[0] in (*COLLECTIONS, DEAD) for name in state_dict)


def from_torch(state_dict: Mapping[str, np.ndarray], table: Table) -> dict:
    """Turns a state dict into variables: `params`, `batch_stats`, and flat under PyTorch's names, `dead`.

    Half-precision arrays become float32; every other array keeps its type.

    Raises:
      ConversionError: entries are missing, left over or of a wrong shape.
    """
    found = {name: np.asarray(array) for name, array in state_dict.items()}
    table = [entry for entry in table if isinstance(entry, Rule) or entry.required or entry.source in found]
    check("the state dict", found, {entry.source: entry.shape for entry in table})
    dead, placed, stacks = {}, {}, collections.defaultdict(dict)
    for entry in table:
        array = _at_least_float32(found[entry.source])
        if isinstance(entry, Dead):
            dead[entry.source] = array
            continue
        for path, part in zip(entry.targets, entry.layout.split(array), strict=True):
            if entry.block is None:
                placed[path] = part
            else:
                stacks[path][entry.block] = part
    placed |= {path: np.stack([blocks[i] for i in range(len(blocks))]) for path, blocks in stacks.items()}
    tree = traverse_util.unflatten_dict(placed, sep="/")
    return {name: tree.get(name, {}) for name in COLLECTIONS} | {DEAD: dead}


def to_torch(variables: Mapping, table: Table) -> dict[str, np.ndarray]:
    """Turns variables, or gradients under `params`, back into a state dict: the inverse of `from_torch`.

    Entries of a collection that `variables` does not have are left out.

    Raises:
      ConversionError: arrays are missing from a collection, left over, or of a wrong shape.
    """
    given = {name: variables[name] for name in COLLECTIONS if variables.get(name)}
    table = [entry for entry in table if entry.collection in given]
    dead = {name: np.asarray(array) for name, array in variables.get(DEAD, {}).items()}
    ours = flat(given)
    dead_shapes = {entry.source: entry.shape for entry in table if isinstance(entry, Dead) and entry.source in dead}
    check("the tree of variables", ours | dead, shapes(table) | dead_shapes)
    return {entry.source: _entry(entry, ours, dead) for entry in table}


def shapes(table: Table) -> dict[str, tuple[int, ...]]:
    """The shape of every array of our tree, by its path."""
    out, blocks = {}, collections.Counter()
    for rule in table:
        if isinstance(rule, Rule):
            parts = rule.layout.split(np.broadcast_to(np.float32(0), rule.shape))
            out |= {path: part.shape for path, part in zip(rule.targets, parts, strict=True)}
            blocks.update(rule.targets if rule.block is not None else ())
    return {path: (blocks[path], *shape) if path in blocks else shape for path, shape in out.items()}


def _entry(entry: Rule | Dead, ours: Mapping[str, np.ndarray], dead: Mapping[str, np.ndarray]) -> np.ndarray:
    if isinstance(entry, Rule):
        parts = [ours[path] if entry.block is None else ours[path][entry.block] for path in entry.targets]
        return entry.layout.join(parts)
    if entry.source in dead:
        return dead[entry.source].astype(entry.dtype, copy=False)
    return entry.value().astype(entry.dtype) if entry.value else np.zeros(entry.shape, entry.dtype)


def _at_least_float32(array: np.ndarray) -> np.ndarray:
    is_half = jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize < 4
    return array.astype(np.float32) if is_half else array


def check(what: str, found: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raises one ConversionError that lists everything in which `found` differs from the expected names and shapes."""
    problems = {
        "missing": [f"{name} {shape}" for name, shape in expected.items() if name not in found],
        "left over": [f"{name} {array.shape}" for name, array in found.items() if name not in expected],
        "of a wrong shape": [
            f"{name} {found[name].shape}, expected {shape}"
            for name, shape in expected.items()
            if name in found and found[name].shape != shape
        ],
    }
    if any(problems.values()):
        counts = ", ".join(f"{len(names)} {kind}" for kind, names in problems.items() if names)
        lines = [f"  {kind}: {name}" for kind, names in problems.items() for name in names]
        raise ConversionError(
            f"{what} does not fit config.model ({counts}); "
            "compare its backbone, num_classes and num_queries with the file's\n" + "\n".join(lines)
        )
