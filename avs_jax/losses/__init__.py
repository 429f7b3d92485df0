"""Training objectives: pure functions of a model's outputs and a batch."""

from __future__ import annotations

from collections.abc import Mapping

import jax

from avs_jax.losses import avm, avsegformer, vct
from avs_jax.models.outputs import TPAVIOutputs, VCTOutputs

__all__ = ["total_loss"]


def total_loss(
    outputs, batch: Mapping[str, jax.Array], config, rng: jax.Array | None = None
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of a batch: the weighted total and its unweighted terms, by the system that made `outputs`.

    `config` is `config.loss`; `rng` is the key of losses that draw at random: VCT's. What the terms are, and what else
    is raised: see `avs_jax.losses.avsegformer`, `avs_jax.losses.avm` (TPAVI) and `avs_jax.losses.vct`.

    Raises:
      ValueError: VCT's outputs, but no key.
    """
    if isinstance(outputs, VCTOutputs):
        if rng is None:
            raise ValueError("VCT's loss compares masks at random points: total_loss needs a key as `rng`")
        return vct.total_loss(outputs, batch, config, rng)
    if isinstance(outputs, TPAVIOutputs):
        return avm.total_loss(outputs, batch, config)
    return avsegformer.total_loss(outputs, batch, config)
