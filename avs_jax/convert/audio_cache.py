"""VGGish's embeddings for records (`data_pipeline.convert --cache-audio`), and whose they are."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from avs_jax import convert
from avs_jax.backbones.vggish import VGGish
from avs_jax.convert import parts, rules
from avs_jax.layers.dropout import hashes
from data_pipeline.audio_cache import AudioCache
from data_pipeline.problems import BadFile


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Those of a VGGish; as published."""

    widths: tuple[int, ...] = (64, 128, 256, 512)
    hidden_dim: int = 4096
    embedding_dim: int = 128


class CacheError(ValueError):
    """Records whose audio embeddings are not those of the model's VGGish."""


def create(weights: str | os.PathLike, sizes: Sizes = Sizes()) -> AudioCache:  # noqa: B008 (immutable)
    """The embeddings by the VGGish in a file that `avs_jax.convert.read` reads, alone or in a whole model.

    Raises:
      BadFile: the file is missing, damaged, or holds no VGGish of these sizes.
      CheckpointError: a folder that holds no checkpoint.
    """
    try:
        found = parts.part_of(convert.read(weights), "vggish")
        variables = rules.unflat(found) if rules.is_flat(found) else convert.vggish_from_torch(found, sizes)
    except rules.ConversionError as error:
        raise BadFile(weights, f"holds no VGGish as published ({error})", "give its file of weights") from error
    params = jax.device_put(variables["params"])
    apply = jax.jit(VGGish(sizes.widths, sizes.hidden_dim, sizes.embedding_dim).apply)

    def embed(log_mel: np.ndarray) -> np.ndarray:
        return np.asarray(apply({"params": params}, log_mel))

    return AudioCache(embed, fingerprint(params))


def require(params: Mapping, vggish: str, records: str | os.PathLike) -> None:
    """Checks that a model's VGGish made the embeddings in the records.

    Args:
      params: of the model's VGGish.
      vggish: the fingerprint in the records, see `RecordSet.vggish`.
      records: where they are, for the message.

    Raises:
      CacheError: another one did.
    """
    mine = fingerprint(params)
    if mine != vggish:
        raise CacheError(
            f"config.data.cached_audio: {records} holds the embeddings of another VGGish ({vggish}) than the model's "
            f"({mine}): give its file with --config.init_from.vggish, convert the data set again with --cache-audio, "
            "or set --config.data.cached_audio=False"
        )


def fingerprint(params: Mapping) -> str:
    """64 bits that differ where any weight differs, wherever the arrays lie: 16 hexadecimal digits."""
    return "".join(f"{int(half):08x}" for half in jax.device_get(_sums(params)))


@jax.jit
def _sums(params: Mapping) -> tuple[jax.Array, jax.Array]:
    # Sums of integers are the same in any order, and so for any layout over devices. An odd factor for each place makes
    # a change of any single weight a change of the sum.
    totals = [jnp.uint32(0), jnp.uint32(0)]
    for number, (path, leaf) in enumerate(sorted(rules.flat(params).items())):
        bits = jax.lax.bitcast_convert_type(jnp.asarray(leaf, jnp.float32), jnp.uint32)
        for half in range(2):
            seed = jnp.array([2 * number + half, len(path)], jnp.uint32)
            totals[half] += jnp.sum(bits * (hashes(bits.shape, seed) | 1), dtype=jnp.uint32)
    return tuple(totals)
