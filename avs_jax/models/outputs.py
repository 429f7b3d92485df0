"""What the models return, and the one reading that all of them share: class scores per pixel."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from avs_jax.layers.resize import resize_bilinear


@struct.dataclass
class AVSegFormerOutputs:
    """B clips of T frames of H x W pixels; h, w = H / 4, W / 4."""

    mask_logits: jax.Array  # (B, T, H, W, classes), float32
    mask_features: jax.Array  # (B, T, h, w, D), float32: the mixed mask feature, which the mixing loss looks at
    mix_logits: jax.Array | None = None  # (B, T, h, w, 1), float32: the paper's linear integration of its channels


@struct.dataclass
class TPAVIOutputs:
    """B clips of T frames of H x W pixels; maps of stage i are H / 2^(i + 2) x W / 2^(i + 2)."""

    mask_logits: jax.Array  # (B, T, H, W, classes), float32
    mask_features: jax.Array  # (B, T, H / 2, W / 2, D), float32: the decoder's last map, which masks are read from
    feature_maps: tuple[jax.Array, ...]  # four (B, T, h_i, w_i, D), float32, rectified: what the AVM loss looks at
    audio_features: tuple[jax.Array | None, ...]  # four (B, T, D), float32; None where a stage does not meet the sound


@struct.dataclass
class VCTOutputs:
    """B clips of T frames of H x W pixels; L predictions, the last one final, by Q queries; h, w = H / 4, W / 4."""

    class_logits: jax.Array  # (L, B, T, Q, C + 1), float32; class 0 is the background, the last one "no object"
    mask_logits: jax.Array  # (L, B, T, Q, h, w), float32
    frame_valid: jax.Array  # (B, T), bool: frames without are left empty
    prototype_logits: jax.Array | None = None  # (B, T, K), float32: how much a frame sounds like each prototype


def semantic_scores(outputs: AVSegFormerOutputs | TPAVIOutputs | VCTOutputs, image_size: tuple[int, int]) -> jax.Array:
    """Scores (B, T, *image_size, classes), float32, of the classes at every pixel.

    They are probabilities: sigmoid of a single class, else softmax over the classes. Of VCT with one class, too (the
    softmax over background and object); with several classes its scores are sums over queries, see `query_scores`.
    Maps of another size than `image_size` (height, width) are resized bilinearly.
    """
    if isinstance(outputs, VCTOutputs):
        scores = query_scores(outputs, image_size)
        return jax.nn.softmax(scores, axis=-1)[..., 1:] if scores.shape[-1] == 2 else scores
    logits = outputs.mask_logits.astype(jnp.float32)
    scores = jax.nn.sigmoid(logits) if logits.shape[-1] == 1 else jax.nn.softmax(logits, axis=-1)
    return resize_bilinear(scores, image_size)


def query_scores(outputs: VCTOutputs, image_size: tuple[int, int]) -> jax.Array:
    """Sums over queries of class probability times mask probability: (B, T, *image_size, C) float32, in [0, Q].

    Of the final prediction; "no object" is left out, and so are frames that are not valid: their scores are 0. Masks
    are brought to four times their size, the frames', and the sums to `image_size` (height, width), both bilinearly.
    """
    classes = jax.nn.softmax(outputs.class_logits[-1], axis=-1)[..., :-1]  # (B, T, Q, C)
    masks = jnp.moveaxis(outputs.mask_logits[-1], 2, -1)  # (B, T, h, w, Q)
    height, width = masks.shape[2:4]
    with jax.default_matmul_precision("float32"):
        masks = jax.nn.sigmoid(resize_bilinear(masks, (4 * height, 4 * width)))
        scores = jnp.einsum("bthwq,btqc->bthwc", masks, classes)
        scores = jnp.where(outputs.frame_valid[:, :, None, None, None], scores, 0)
        return resize_bilinear(scores, image_size)
