"""The device mesh and where arrays lie on it: clips are split over "data" and "fsdp", parameters as `rules` says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

# Clips are split over "data" and "fsdp"; parameters over "fsdp" and "tensor"; "data" repeats them.
AXES = ("data", "fsdp", "tensor")
CLIPS = ("data", "fsdp")
DEFAULT = {"data": -1, "fsdp": 1, "tensor": 1}


class MeshError(ValueError):
    """A mesh or a batch that the devices cannot be split into."""


def create(sizes: Mapping[str, int] = DEFAULT, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh of all devices, or of `devices`.

    Args:
      sizes: of each of AXES, `config.mesh`; one of them may be -1, what the others leave.

    Raises:
      MeshError: the sizes do not fit the number of devices, or "tensor" would reach over processes.
    """
    devices = jax.devices() if devices is None else list(devices)
    shape = shape_of(sizes, len(devices))
    local = sum(device.process_index == devices[0].process_index for device in devices)
    if local % shape[2]:
        raise MeshError(f"config.mesh.tensor={shape[2]}: must divide the {local} devices of a process")
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def shape_of(sizes: Mapping[str, int], devices: int) -> tuple[int, int, int]:
    """The number of devices along each of AXES; see `create`."""
    asked = tuple(int(sizes[axis]) for axis in AXES)
    known = math.prod(size for size in asked if size != -1)
    left, rest = divmod(devices, known)
    shape = tuple(left if size == -1 else size for size in asked)
    if rest or math.prod(shape) != devices:
        wanted = " x ".join(f"{axis} {size}" for axis, size in zip(AXES, asked, strict=True))
        raise MeshError(f"config.mesh: {devices} devices cannot be split into {wanted}; -1 takes what is left")
    return shape


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the layout of what every device holds whole: scalars, statistics, small parameters."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """Returns the layout of a batch: the leading axis, the clips, split over the devices."""
    return NamedSharding(mesh, PartitionSpec(CLIPS))


def clips_over(mesh: Mesh) -> int:
    """Into how many parts a batch is split."""
    return math.prod(mesh.shape[axis] for axis in CLIPS)


def check_split(clips: int, mesh: Mesh) -> None:
    """Raises MeshError where a batch of so many clips cannot be split evenly over the devices."""
    if clips % clips_over(mesh):
        raise MeshError(
            f"{clips} clips cannot be split over {clips_over(mesh)} devices: make train.batch_size, and what "
            "train.accumulate leaves of it, a multiple of them, or config.mesh.tensor larger"
        )


def keep_split(tree, axis: int = 0):
    """Holds arrays to the layout of a batch, split along `axis`, while a step is traced under `jax.set_mesh`.

    Without a mesh it does nothing, so that a step is the same function on one device.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return tree
    layout = PartitionSpec(*(None,) * axis, CLIPS)
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, layout), tree)


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Sends this process's part of a batch to its devices.

    The parts of all processes, one after the other, are the batch; on a TPU slice the places of its clips follow those
    of the chips.

    Raises:
      MeshError: the clips cannot be split evenly over the devices.
    """
    check_split(len(next(iter(batch.values()))) * jax.process_count(), mesh)
    layout = split(mesh)
    return {name: jax.make_array_from_process_local_data(layout, value) for name, value in batch.items()}
