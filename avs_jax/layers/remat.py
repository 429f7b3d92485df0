"""Rematerialisation: what a training step keeps for its backward pass, and what it computes again."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name

# "none": every intermediate value is kept. "dots": blocks keep the results of their matrix products, but for some that
# are wide and cheap. "blocks": blocks keep only what they are given. "full": so do the large parts that are no blocks.
POLICIES = ("none", "dots", "blocks", "full")

_OF_LOOPS = "of_loops"
_policies = jax.checkpoint_policies
_DOTS = _policies.save_from_both_policies(
    _policies.dots_with_no_batch_dims_saveable, _policies.save_only_these_names(_OF_LOOPS)
)


def check(policy: str) -> None:
    """Raises ValueError unless `policy` is one of POLICIES."""
    if policy not in POLICIES:
        raise ValueError(f"model.remat is {policy!r}; it must be one of {', '.join(POLICIES)}")


def block(
    module: type[nn.Module], policy: str, static_argnums: Sequence[int] = (), in_scan: bool = False
) -> type[nn.Module]:
    """`module`, one of many alike, as `policy` wants it. `static_argnums` counts from 1: arguments that are no arrays.

    Args:
      in_scan: it is the body of a scan, which by itself keeps XLA from sharing values between the two passes.
    """
    check(policy)
    if policy == "none":
        return module
    keep = _DOTS if policy == "dots" else None
    return nn.remat(module, prevent_cse=not in_scan, policy=keep, static_argnums=tuple(static_argnums))


def product(x: jax.Array) -> jax.Array:
    """x, kept as the result of a matrix product is: for functions that on some platform are loops of products."""
    return checkpoint_name(x, _OF_LOOPS)


def part(module: type[nn.Module], policy: str, static_argnums: Sequence[int] = ()) -> type[nn.Module]:
    """`module`, a part of a model that is no stack of blocks: computed again only by the policy "full"."""
    check(policy)
    return nn.remat(module, static_argnums=tuple(static_argnums)) if policy == "full" else module
