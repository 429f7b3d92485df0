"""Which mesh axis a parameter's axis is split over, and so where every array of a training state lies."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from avs_jax.parallel.axes import Axes, logical_axes

# Logical axis -> the mesh axes that may split it. Heads and hidden features are independent of each other between two
# products, so they can be computed apart ("tensor"); along any long axis a parameter can be kept in parts ("fsdp").
RULES: dict[str, tuple[str, ...]] = {
    "heads": ("tensor", "fsdp"),
    "mlp": ("tensor", "fsdp"),
    "embed": ("fsdp",),
    "keys_values": ("fsdp",),
    "conv_in": ("fsdp",),
    "conv_out": ("fsdp",),
    "audio": ("fsdp",),
    "pixels": ("fsdp",),
    "queries": ("fsdp",),
    "classes": ("fsdp",),
    # Never split: too short, or, as the layers, taken one by one.
    "layers": (),
    "norm": (),
    "levels": (),
    "places": (),
    "height": (),
    "width": (),
    "one": (),
}

SMALLEST = 1024  # elements; to collect fewer from all devices takes longer than to keep them everywhere


class Placed(NamedTuple):
    """Where one parameter lies."""

    path: str
    shape: tuple[int, ...]
    axes: Axes
    spec: PartitionSpec
    bytes_per_device: int


def partition_spec(axes: Axes, shape: tuple[int, ...], mesh_sizes: Mapping[str, int]) -> PartitionSpec:
    """Splits at most one axis over "tensor" and one over "fsdp": each time the longest that the rules allow.

    An axis that the devices do not divide is passed over; where none is left, the array is whole on each of them.
    """
    places: list[str | None] = [None] * len(shape)
    for mesh_axis in ("tensor", "fsdp"):
        size = mesh_sizes[mesh_axis]
        free = [i for i, name in enumerate(axes) if mesh_axis in RULES[name] and not places[i] and shape[i] % size == 0]
        if size > 1 and free and math.prod(shape) >= SMALLEST:
            places[max(free, key=lambda i: (shape[i], i))] = mesh_axis
    while places and places[-1] is None:
        places.pop()
    return PartitionSpec(*places)


def shardings(state: Any, mesh: Mesh | AbstractMesh) -> Any:
    """Returns the layout of every array of a state, in the state's form.

    What belongs to a parameter, as its moments and its average do, lies as the parameter: it is found by its shape and
    its path, which ends as the parameter's. Everything else is whole on every device.

    Args:
      state: a tree of arrays or shapes, with the parameters as `params`.
      mesh: of the axes `mesh.AXES`.

    Raises:
      AxesError: a parameter is not in the table of axes.
    """
    known = {(placed.path, placed.shape): placed.spec for placed in place(state.params, mesh)}

    def layout(path: tuple, leaf: Any) -> NamedSharding:
        names = [str(entry.key) for entry in path if isinstance(entry, jax.tree_util.DictKey)]
        ends = ("/".join(names[start:]) for start in range(len(names)))
        spec = next((known[end, leaf.shape] for end in ends if (end, leaf.shape) in known), PartitionSpec())
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(layout, state)


def place(params: Any, mesh: Mesh | AbstractMesh) -> Iterator[Placed]:
    """Yields where each parameter lies."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = "/".join(entry.key for entry in path)
        axes = logical_axes(name, leaf.ndim)
        spec = partition_spec(axes, leaf.shape, mesh.shape)
        held = math.prod(NamedSharding(mesh, spec).shard_shape(leaf.shape)) * leaf.dtype.itemsize
        yield Placed(name, leaf.shape, axes, spec, held)


def collected(params: Any) -> Any:
    """Holds parameters, while a step is traced under `jax.set_mesh`, to the layout in which it computes with them.

    What "fsdp" keeps in parts is put together, so that the activations stay split by clips alone; XLA, left to itself,
    splits some of them as it finds the parameters, and moves them to and fro. Without a mesh it does nothing.
    """
    return _held(params, lambda spec: PartitionSpec(*(axis if axis == "tensor" else None for axis in spec)))


def in_parts(gradients: Any) -> Any:
    """Holds gradients, while a step is traced under `jax.set_mesh`, to the layout of their parameters."""
    return _held(gradients, lambda spec: spec)


def _held(params: Any, layout: Callable[[PartitionSpec], PartitionSpec]) -> Any:
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return params
    specs = iter([layout(placed.spec) for placed in place(params, mesh)])
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, next(specs)), params)


def bytes_per_device(state: Any, mesh: Mesh | AbstractMesh) -> dict[str, int]:
    """Returns what one device holds of each field of a state: {"params": ..., "opt_state": ..., ...}."""
    held: dict[str, int] = {}
    leaves = jax.tree_util.tree_leaves_with_path(state)
    for (path, leaf), layout in zip(leaves, jax.tree.leaves(shardings(state, mesh)), strict=True):
        size = math.prod(layout.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        held[path[0].name] = held.get(path[0].name, 0) + size
    return held


def table(state: Any, mesh: Mesh | AbstractMesh) -> list[str]:
    """Returns lines that say of each parameter its shape, axes, split and bytes on a device, and of the state its sums.

    Parameters that differ in a number of their path alone share a line.
    """
    groups: dict[tuple, int] = {}
    for placed in place(state.params, mesh):
        key = placed._replace(path=re.sub(r"\d+", "*", placed.path))
        groups[key] = groups.get(key, 0) + 1
    rows = [("parameter", "number", "shape", "axes", "split over", "bytes on a device")]
    for placed, number in groups.items():
        shape, axes = " x ".join(map(str, placed.shape)) or "scalar", " ".join(placed.axes) or "-"
        over = " ".join(name or "-" for name in placed.spec) or "whole"
        rows.append((placed.path, str(number), shape, axes, over, f"{placed.bytes_per_device:,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    sums = (f"{name}: {size:,} bytes on a device" for name, size in bytes_per_device(state, mesh).items())
    return [*lines, "", *sums]
