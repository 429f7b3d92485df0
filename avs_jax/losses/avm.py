"""Audio-visual matching (AVM) and the total loss of TPAVI (Zhou et al., ECCV 2022, section 3.4; AVSS: IJCV 2024).

What a frame sounds like is drawn towards what its predicted mask covers, at several stages of the model. The released
scripts of the three tasks differ in more than options; `form` names the one that is followed:

  form   mask at a stage's size    sum over frames
  s4     pool(sigmoid(logits))     mean over all frames
  ms3    sigmoid(pool(logits))     "kl": sum; "euclidean" and "cosine": mean
  avss   pool(class != 0)          mean over annotated frames

Only in the form ms3 without `threshold` does a gradient reach the logits.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from avs_jax.losses import segmentation
from avs_jax.losses.terms import weighted_mean

EPSILON = 1e-6


def total_loss(outputs, batch: Mapping[str, jax.Array], config) -> tuple[jax.Array, dict[str, jax.Array]]:
    """TPAVI's loss of a batch, in float32: segmentation, and matching where its weight is not 0.

    Args:
      outputs: `TPAVIOutputs` of B clips of T frames.
      batch: `masks` (B,T,H,W) uint8; `mask_valid`, `frame_valid` (B,T) and `clip_valid` (B,) bool, true where absent.
      config: `config.loss`: `frames`, `main` and `main_weight` as for AVSegFormer ("bce" and "cross_entropy" are the
        published ones), `avm` as `avm_loss` takes it, with its `weight`.

    Returns:
      The weighted total, and the unweighted terms {"main", "avm"} ("avm" only where its weight is not 0).

    Raises:
      ValueError: an unknown name in `config`, or predictions of another size than the masks.
    """
    found = {"main": segmentation.loss(segmentation.supervise(outputs, batch, config.frames), config.main)}
    total = config.main_weight * found["main"]
    if config.avm.weight:
        logits, maps, audio = jax.tree.map(
            lambda x: x.reshape(-1, *x.shape[2:]).astype(jnp.float32),
            (outputs.mask_logits, outputs.feature_maps, outputs.audio_features),
        )
        annotated_only = config.avm.form == "avss"
        weights = segmentation.frame_weights(batch, "mask_valid" if annotated_only else "frame_valid")
        found["avm"] = avm_loss(logits, maps, audio, weights.reshape(-1), config.avm)
        total += config.avm.weight * found["avm"]
    return total, found


def avm_loss(
    logits: jax.Array,
    feature_maps: tuple[jax.Array, ...],
    audio_features: tuple[jax.Array | None, ...],
    frame_weights: jax.Array,
    config,
) -> jax.Array:
    """The matching loss of N frames, averaged over stages: a scalar.

    Args:
      logits: (N, H, W, classes), the prediction.
      feature_maps: per stage (N, h_i, w_i, D), h_i and w_i divisors of H and W.
      audio_features: per stage (N, D).
      frame_weights: (N,), 1 for frames that count and 0 for others.
      config: `config.loss.avm`.

    Raises:
      ValueError: the sound does not enter one of `config.stages`, or a name in `config` is unknown.
    """
    losses = []
    for stage in config.stages:
        if audio_features[stage] is None:
            raise ValueError(
                f"config.loss.avm.stages has {stage}, where config.model does not bring in the sound; "
                "leave it out, or add it to config.model.stages with audio_visual=True"
            )
        losses.append(_stage_loss(logits, feature_maps[stage], audio_features[stage], frame_weights, config))
    return sum(losses) / len(losses)


def stage_mask(logits: jax.Array, size: tuple[int, int], form: str, pooling: str) -> jax.Array:
    """The predicted mask (N, *size, 1) of logits (N, H, W, classes), as soft as the form has it."""
    match form:
        case "s4":
            return pool(jax.nn.sigmoid(logits), size, pooling)
        case "ms3":
            return jax.nn.sigmoid(pool(logits, size, pooling))
        case "avss":
            sounds = jnp.argmax(logits, axis=-1, keepdims=True) != 0
            return pool(sounds.astype(logits.dtype), size, pooling)
    raise ValueError(f"config.loss.avm.form is {form!r}; known forms: s4, ms3, avss")


def pool(x: jax.Array, size: tuple[int, int], pooling: str) -> jax.Array:
    """Pools x (N, H, W, C) over equal tiles to (N, *size, C), by "average" or "max"."""
    frames, height, width, channels = x.shape
    if height % size[0] or width % size[1]:
        raise ValueError(f"a map of {height} x {width} does not divide into {size[0]} x {size[1]} equal tiles")
    tiles = x.reshape(frames, size[0], height // size[0], size[1], width // size[1], channels)
    match pooling:
        case "average":
            return tiles.mean(axis=(2, 4))
        case "max":
            return tiles.max(axis=(2, 4))
    raise ValueError(f"config.loss.avm.pooling is {pooling!r}; 'average' or 'max'")


def masked_feature(feature: jax.Array, mask: jax.Array, threshold: bool) -> jax.Array:
    """Mean (N, D) of feature (N, h, w, D) times mask (N, h, w, 1); with `threshold`, the mean where mask > 0.5."""
    if not threshold:
        return jnp.mean(feature * mask, axis=(1, 2))
    mask = (mask > 0.5).astype(feature.dtype)
    return jnp.sum(feature * mask, axis=(1, 2)) / (jnp.sum(mask, axis=(1, 2)) + EPSILON)


def closest_frames(audio: jax.Array, frame_weights: jax.Array) -> jax.Array:
    """For each frame the index (N,) of the other frame that counts and sounds most like it; audio is (N, D)."""
    audio = _normalize(audio)
    distance = jnp.sqrt(jnp.sum((audio[:, None] - audio) ** 2, axis=-1))
    distance += 10 * jnp.eye(len(audio), dtype=distance.dtype)
    return jnp.argmin(jnp.where(frame_weights[:, None] > 0, distance, jnp.inf), axis=0)


def _stage_loss(logits: jax.Array, feature: jax.Array, audio: jax.Array, frame_weights: jax.Array, config) -> jax.Array:
    mask = stage_mask(logits, feature.shape[1:3], config.form, config.pooling)
    seen, heard = masked_feature(feature, mask, config.threshold), audio
    if config.normalize:
        seen, heard = _normalize(seen), _normalize(heard)
    match config.target:
        case "sound":
            target = heard
        case "closest":
            # The released AVSS script matches with the sound even then, if the distance is "kl".
            keeps_sound = config.form == "avss" and config.distance == "kl"
            target = heard if keeps_sound else seen[closest_frames(audio, frame_weights)]
        case _:
            raise ValueError(f"config.loss.avm.target is {config.target!r}; 'sound' or 'closest'")
    frame_losses = distances(target, seen, config.distance)
    if config.form == "ms3" and config.distance == "kl":
        return jnp.sum(frame_losses * frame_weights)
    return weighted_mean(frame_losses, frame_weights)


def distances(target: jax.Array, seen: jax.Array, distance: str) -> jax.Array:
    """How far seen (N, D) is from target (N, D), frame by frame: (N,)."""
    match distance:
        case "cosine":
            cosine = jnp.sum(_normalize(target) * _normalize(seen), axis=-1)
            return -jnp.log(jax.nn.relu(cosine) + EPSILON)
        case "kl":
            log_target, log_seen = jax.nn.log_softmax(target), jax.nn.log_softmax(seen)
            return jnp.sum(jnp.exp(log_target) * (log_target - log_seen), axis=-1)
        case "euclidean":
            return jnp.sqrt(jnp.sum((target - seen + EPSILON) ** 2, axis=-1))
    raise ValueError(f"config.loss.avm.distance is {distance!r}; known distances: cosine, kl, euclidean")


def _normalize(x: jax.Array) -> jax.Array:
    """x (..., D) over its length, which counts as 1e-12 at least."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))
