"""How arrays are laid out over devices, and how several processes work as one."""

from avs_jax.parallel.rules import bytes_per_device, collected, in_parts, shardings, table

__all__ = ["bytes_per_device", "collected", "in_parts", "shardings", "table"]
