"""Weights to start from that do not fit the model in two stated ways; whatever else differs stays an error.

Tables of relative position biases, of another window: resized bicubically, as the authors of Swin do it (PyTorch's
`interpolate` with `mode="bicubic", align_corners=False`: cubic convolution with a = -0.75 between the cells' centres,
the border repeated, no antialiasing). The last layer of a model, of another number of classes: left from scratch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from avs_jax.convert import rules
from avs_jax.convert.rules import Dead, Rule, Table

POSITION_BIAS = "relative_position_bias"
CLASS_HEADS = ("head/predictor/tail_2", "head/predictor/conv_2", "decoder/head/class_embed")  # AVSegFormer, TPAVI, VCT

Shapes = Mapping[str, tuple[int, ...]]


def from_torch(state_dict: Mapping[str, np.ndarray], table: Table) -> tuple[dict, list[str]]:
    """`rules.from_torch` for weights to start from: what has another window or other classes is resized or left out.

    Of entries that the model never uses, those of another shape are dropped.

    Returns:
      The variables, in which a class head may be missing, and a note on each array that was resized or left out.

    Raises:
      ConversionError: entries are missing, left over or of a wrong shape that no rule mends.
    """
    variables = rules.from_torch(state_dict, _as_in_file(table, state_dict))
    arrays, notes = resized(rules.flat(variables | {rules.DEAD: {}}), rules.shapes(table))
    own = {entry.source: entry.shape for entry in table if isinstance(entry, Dead)}
    dead = {name: array for name, array in variables[rules.DEAD].items() if array.shape == own[name]}
    return rules.unflat(arrays) | {rules.DEAD: dead}, notes


def resized(flat: Mapping[str, np.ndarray], expected: Shapes) -> tuple[dict[str, np.ndarray], list[str]]:
    """Makes arrays fit a model where a rule says how.

    Args:
      flat: {path in our tree, collection first: array}.
      expected: the model's shapes, by the same paths.

    Returns:
      The arrays that fit, and a note on each that was resized or left out.

    Raises:
      ConversionError: other paths are missing, left over or of a wrong shape; the message lists them all.
    """
    fitting, notes, left_out = {}, [], set()
    for path, array in flat.items():
        shape = expected.get(path, array.shape)
        if array.shape != shape and _is_class_head(path) and array.shape[:-1] == shape[:-1]:
            notes.append(f"{path}: from scratch, as the file has {array.shape[-1]} classes and the model {shape[-1]}")
            left_out.add(path)
        elif array.shape != shape and _is_resizable_bias(path, array.shape, shape):
            old, new = window(array.shape[-2]), window(shape[-2])
            notes.append(f"{path}: resized from windows of {old} x {old} tokens to {new} x {new}")
            fitting[path] = resize_position_bias(array, new)
        else:
            fitting[path] = array
    rules.check(
        "what to start from", fitting, {path: shape for path, shape in expected.items() if path not in left_out}
    )
    return fitting, notes


def resize_position_bias(table: np.ndarray, new_window: int) -> np.ndarray:
    """Resizes tables of relative position biases: (..., (2 w - 1)**2, heads) -> (..., (2 new_window - 1)**2, heads)."""
    *lead, rows, heads = table.shape
    old, new = math.isqrt(rows), 2 * new_window - 1
    grid = table.reshape(*lead, old, old, heads).astype(np.float64)
    weights = _cubic_weights(old, new)
    grid = np.einsum("iy,jx,...yxh->...ijh", weights, weights, grid, optimize=True)
    return grid.reshape(*lead, new * new, heads).astype(table.dtype)


def window(rows: int) -> int | None:
    """The side of the windows, in tokens, whose table of biases has so many rows; None if there are no such windows."""
    side = math.isqrt(rows)
    return (side + 1) // 2 if side * side == rows and side % 2 else None


def _cubic_weights(old: int, new: int) -> np.ndarray:
    """(new, old): how much of each old cell is in each new one, along one axis."""
    centre = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(centre).astype(int) - 1
    weights = np.zeros((new, old))
    for k in range(4):
        distance = np.abs(centre - (first + k))
        near = 1.25 * distance**3 - 2.25 * distance**2 + 1
        far = -0.75 * (distance**3 - 5 * distance**2 + 8 * distance - 4)
        np.add.at(weights, (np.arange(new), np.clip(first + k, 0, old - 1)), np.where(distance <= 1, near, far))
    return weights


def _as_in_file(table: Table, state_dict: Mapping[str, np.ndarray]) -> list[Rule | Dead]:
    """The table with the file's shapes, where they may differ: along the first axis of PyTorch's biases and heads."""
    shapes = {name: np.shape(array) for name, array in state_dict.items()}
    in_file = {}
    for entry in table:
        in_file.setdefault(_kind(entry), set()).add(shapes.get(entry.source))
    return [
        dataclasses.replace(entry, shape=shapes[entry.source])
        if entry.source in shapes and _may_differ(entry, shapes[entry.source]) and len(in_file[_kind(entry)]) == 1
        else entry
        for entry in table
    ]


def _kind(entry: Rule | Dead) -> tuple[str, ...]:
    """What must have one shape: the blocks that lie on one stack."""
    return entry.targets if isinstance(entry, Rule) else (entry.source,)


def _may_differ(entry: Rule | Dead, shape: tuple[int, ...]) -> bool:
    if isinstance(entry, Dead):
        return True
    (*_, path) = entry.targets
    return (path.endswith(f"/{POSITION_BIAS}") or _is_class_head(path)) and shape[1:] == entry.shape[1:]


def _is_class_head(path: str) -> bool:
    return path.rpartition("/")[0].endswith(CLASS_HEADS)


def _is_resizable_bias(path: str, old: tuple[int, ...], new: tuple[int, ...]) -> bool:
    alike = len(old) == len(new) >= 2 and (*old[:-2], old[-1]) == (*new[:-2], new[-1])
    return path.endswith(f"/{POSITION_BIAS}") and alike and all(window(shape[-2]) for shape in (old, new))
