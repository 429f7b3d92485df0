"""What the transformers among the backbones share: initial values of linear layers, and stacks of blocks."""

from __future__ import annotations

import functools

import flax.linen as nn

from avs_jax.layers import remat
from avs_jax.layers.blocks import Dense

linear_normal = nn.initializers.normal(0.02)  # published as truncated at +-2: a hundred standard deviations away
Linear = functools.partial(Dense, kernel_init=linear_normal, bias_init=nn.initializers.zeros)


def stacked(block: type[nn.Module], count: int, policy: str) -> type[nn.Module]:
    """`block` repeated `count` times as one scan over stacked parameters (leading axis: block).

    `policy` is one of `layers.remat`'s. `block` takes the map, and its own drop path rates or None, and returns
    (map, None).
    """
    return nn.scan(
        remat.block(block, policy, in_scan=True),
        variable_axes={"params": 0, "intermediates": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=0,
        length=count,
        check_constancy_invariants=False,  # saves tracing the block twice
    )
