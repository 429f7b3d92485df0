"""Layers that are all alike, one after the other, compiled once: a scan over stacked parameters."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def run(layer: nn.Module, count: int, x: jax.Array, *arguments: Any) -> tuple[jax.Array, jax.Array]:
    """Calls layer(x, *arguments) -> x `count` times, each with parameters and a stream of random numbers of its own.

    The parameters of `layer` get a leading axis. Results do not change the type of x, which is at least float32.

    Returns:
      The last x, and all of them, stacked.
    """

    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if count == 0:
        return x, x[None][:0]

    def body(layer: nn.Module, x: jax.Array, *arguments: Any) -> tuple[jax.Array, jax.Array]:
        x = layer(x, *arguments)
        return x, x

    scan = nn.scan(
        body,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=nn.broadcast,
        length=count,
        check_constancy_invariants=False,  # saves tracing the body twice
    )
    return scan(layer, x, *arguments)


def sow(module: nn.Module, name: str, each: jax.Array) -> None:
    """Sows into the intermediates of `module` what each layer returned, as `name`_0, `name`_1, ..."""
    for i, x in enumerate(each):
        module.sow("intermediates", f"{name}_{i}", x)
