"""VGGish's embeddings for records (`data_pipeline.convert --cache-audio`), and whose they are."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from avs_jax import convert
from avs_jax.backbones.vggish import VGGish
from avs_jax.convert import parts, rules
from avs_jax.layers.dropout import hashes
from data_pipeline.audio_cache import AudioCache
from data_pipeline.problems import BadFile

_MEND = "convert the data set again with --cache-audio, or set --config.data.cached_audio=False"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Those of a VGGish; as published."""

    widths: tuple[int, ...] = (64, 128, 256, 512)
    hidden_dim: int = 4096
    embedding_dim: int = 128


class CacheError(rules.ConversionError):
    """Records whose audio embeddings are not those of the model's VGGish."""


PUBLISHED = Sizes()


@dataclasses.dataclass(frozen=True)
class Embedder:
    """Log-mels (N, 96, 64) -> embeddings (N, 128), float32, by the VGGish in a file.

    It can be sent to other processes: each reads the file for itself, once.
    """

    weights: str
    sizes: Sizes = PUBLISHED

    def __call__(self, log_mel: np.ndarray) -> np.ndarray:
        params, apply = _vggish(self.weights, self.sizes)
        return np.asarray(apply({"params": params}, log_mel))


def create(weights: str | os.PathLike, sizes: Sizes = PUBLISHED) -> AudioCache:
    """The embeddings by the VGGish in a file that `avs_jax.convert.read` reads, alone or in a whole model.

    Raises:
      BadFile: the file is missing, damaged, or holds no VGGish of these sizes.
      CheckpointError: a folder that holds no checkpoint.
    """
    weights = os.fspath(weights)
    params, _ = _vggish(weights, sizes)
    return AudioCache(Embedder(weights, sizes), fingerprint(params))


@functools.cache
def _vggish(weights: str, sizes: Sizes) -> tuple[Mapping, Callable]:
    """VGGish's parameters in a file, on the device, and the function that takes them."""
    try:
        found = parts.part_of(convert.read(weights), "vggish")
        variables = rules.unflat(found) if rules.is_flat(found) else convert.vggish_from_torch(found, sizes)
    except rules.ConversionError as error:
        raise BadFile(weights, f"holds no VGGish as published ({error})", "give its file of weights") from error
    module = VGGish(sizes.widths, sizes.hidden_dim, sizes.embedding_dim)
    expected = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 96, 64)))
    if _shapes(expected["params"]) != _shapes(variables["params"]):
        raise BadFile(weights, "holds a VGGish of other sizes than the published one", "give the published file")
    return jax.device_put(variables["params"]), jax.jit(module.apply)


def require(params: Mapping, vggish: str, records: str | os.PathLike) -> None:
    """Checks that a model's VGGish made the embeddings in the records.

    Args:
      params: of the model's VGGish.
      vggish: the fingerprint in the records, see `RecordSet.vggish`.
      records: where they are, for the message.

    Raises:
      CacheError: another one did, or there are no embeddings.
    """
    if not vggish:
        raise CacheError(f"config.data.cached_audio: {records} holds no audio embeddings: {_MEND}")
    mine = fingerprint(params)
    if mine != vggish:
        raise CacheError(
            f"config.data.cached_audio: {records} holds the embeddings of another VGGish ({vggish}) than the model's "
            f"({mine}): give its file with --config.init_from.vggish, or {_MEND}"
        )


def fingerprint(params: Mapping) -> str:
    """64 bits that differ where any weight differs, wherever the arrays lie: 16 hexadecimal digits."""
    return "".join(f"{int(half):08x}" for half in jax.device_get(_sums(params)))


def _shapes(params: Mapping) -> dict[str, tuple[int, ...]]:
    return {path: leaf.shape for path, leaf in flatten_dict(params, sep="/").items()}


@jax.jit
def _sums(params: Mapping) -> tuple[jax.Array, jax.Array]:
    # Sums of integers are the same in any order, and so for any layout over devices. An odd factor for each place makes
    # a change of any single weight a change of the sum.
    totals = [jnp.uint32(0), jnp.uint32(0)]
    for number, (path, leaf) in enumerate(sorted(flatten_dict(params, sep="/").items())):
        bits = jax.lax.bitcast_convert_type(jnp.asarray(leaf, jnp.float32), jnp.uint32)
        for half in range(2):
            seed = jnp.array([2 * number + half, len(path)], jnp.uint32)
            totals[half] += jnp.sum(bits * (hashes(bits.shape, seed) | 1), dtype=jnp.uint32)
    return tuple(totals)
