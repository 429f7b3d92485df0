"""The device mesh: clips are split over all devices, parameters are whole on each."""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def create() -> Mesh:
    """Returns the mesh of all devices, with the one axis "data"."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the layout of what every device holds whole: parameters, optimizer state, scalars."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """Returns the layout of a batch: the leading axis, the clips, split over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Sends this process's part of a batch to its devices.

    Raises:
      ValueError: the clips cannot be split evenly over the devices.
    """
    clips = len(next(iter(batch.values())))
    local = max(1, jax.local_device_count())
    if clips % local:
        raise ValueError(f"a batch of {clips} clips a process cannot be split over {local} devices: change batch_size")
    layout = split(mesh)
    return {name: jax.make_array_from_process_local_data(layout, value) for name, value in batch.items()}
