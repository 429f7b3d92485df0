"""Training objectives: pure functions of a model's outputs and a batch."""

from avs_jax.losses.avsegformer import total_loss
from avs_jax.losses.terms import binary_cross_entropy, cross_entropy, dice, weighted_mean

__all__ = ["binary_cross_entropy", "cross_entropy", "dice", "total_loss", "weighted_mean"]
