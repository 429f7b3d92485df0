"""Evaluation: exact pixel counts on the device, mergeable states, and the published protocols as functions of them.

    metric = avs_jax.metrics.create("avsbench", batch_size=4)
    metric = metric.update(scores, masks, valid)
    metric.compute()  # {"J": ..., "F": ...}

Several protocols share one pass: `Statistics.compute(protocol)`.
"""

from avs_jax.metrics.counts import binary_statistics, class_statistics, statistics
from avs_jax.metrics.state import Metric, Statistics, create, protocols

__all__ = ["Metric", "Statistics", "binary_statistics", "class_statistics", "create", "protocols", "statistics"]
