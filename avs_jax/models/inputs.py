"""What several models read of their inputs in the same way."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax


def audio_embedding(inputs: Mapping[str, jax.Array], encode: Callable, frozen: bool) -> jax.Array:
    """The embedding (B, T, A) of each frame's own second of sound.

    Args:
      inputs: audio_embedding (B, T, A), as it was computed before, or log_mel (B, T, 96, 64).
      encode: VGGish, (N, 96, 64) -> (N, A); not run where the embedding is given.
      frozen: whether no gradient passes.
    """
    if "audio_embedding" in inputs:
        embedding = inputs["audio_embedding"]
    else:
        log_mel = inputs["log_mel"]
        embedding = encode(log_mel.reshape(-1, *log_mel.shape[2:])).reshape(*log_mel.shape[:2], -1)
    return jax.lax.stop_gradient(embedding) if frozen else embedding
