"""VCT's published figures, before they are rounded to four digits; the counts are those of `binary` and `semantic`."""

from __future__ import annotations

import numpy as np

from avs_jax.metrics import binary as one_class
from avs_jax.metrics import semantic as classes


def binary(counts: np.ndarray, valid: np.ndarray) -> dict[str, float]:
    """S4 and MS3: means over clips of each clip's figures, as AVSBench computes them for batches of one clip."""
    return one_class.avsbench(counts, valid, batch_size=1)


def semantic(counts: np.ndarray, valid: np.ndarray) -> dict[str, float]:
    """AVSS: as AVSBench computes it, over the annotated frames alone.

    What is predicted at ignored pixels counts as predicted, and so against a class.
    """
    hits, predicted, truth, ignored = np.moveaxis(counts, -2, 0)
    everywhere = np.stack([hits, predicted + ignored, truth, np.zeros_like(ignored)], axis=-2)
    return classes.avss(everywhere, valid, padded=False)
