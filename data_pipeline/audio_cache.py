"""Audio embeddings in the records: what a frozen VGGish says of every log-mel, computed once instead of every epoch."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable

import numpy as np

_VGGISH = "avs_jax.convert.audio_cache"


@dataclasses.dataclass(frozen=True)
class AudioCache:
    """What gives records their embeddings.

    Attributes:
      embed: log-mels (T, 96, 64) -> embeddings (T, 128), float32.
      vggish: a fingerprint of the weights, which training compares with those of its own VGGish.
    """

    embed: Callable[[np.ndarray], np.ndarray]
    vggish: str


def load(weights: str) -> AudioCache:
    """The cache of a file of VGGish weights.

    This is the one place where data need a model. It is found by its name, when it is asked for: nothing else here
    needs JAX, and imports keep pointing from the models to the data.

    Raises:
      BadFile: the file is missing, damaged, or holds no VGGish.
    """
    return importlib.import_module(_VGGISH).create(weights)
