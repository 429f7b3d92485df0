"""Training objectives: pure functions of a model's outputs and a batch."""

from __future__ import annotations

from collections.abc import Mapping

import jax

from avs_jax.losses import avm, avsegformer, vct
from avs_jax.losses.terms import binary_cross_entropy, cross_entropy, dice, weighted_mean
from avs_jax.models.outputs import TPAVIOutputs, VCTOutputs

__all__ = ["binary_cross_entropy", "cross_entropy", "dice", "total_loss", "weighted_mean"]


def total_loss(
    outputs, batch: Mapping[str, jax.Array], config, rng: jax.Array | None = None
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of a batch: the weighted total and its unweighted terms, by the system that made `outputs`.

    `config` is `config.loss`; `rng` is for losses that draw at random: VCT's, which needs it. What is raised, and what
    the terms are: see `avs_jax.losses.avsegformer`, `avs_jax.losses.avm` (TPAVI) and `avs_jax.losses.vct`.
    """
    if isinstance(outputs, VCTOutputs):
        return vct.total_loss(outputs, batch, config, rng)
    if isinstance(outputs, TPAVIOutputs):
        return avm.total_loss(outputs, batch, config)
    return avsegformer.total_loss(outputs, batch, config, rng)
