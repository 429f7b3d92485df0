"""TPAVI, the baseline of AVSBench (Zhou et al., "Audio-Visual Segmentation", ECCV 2022; its AVSS form, IJCV 2024).

One file, read from the top: the model, its head, and the head's parts in the order in which data passes them.

Shapes: B clips of T frames of H x W pixels; N = B T frames; D = `embed_dim`; maps of stage i are h_i x w_i =
H / 2^(i + 2) x W / 2^(i + 2), i = 0 to 3, NHWC.

`variant` tells the released code ("released") from the paper ("paper") in the one place where they differ: the paper
lets all frames of a clip interact, the released code groups of five, also of AVSS's ten frames.

Intermediate tensors are sown into the collection "intermediates" under the names audio_embedding, backbone_0..3,
conv1..4 (the dilated heads), tpavi_b1..4, audio_fea_0..3, feature_map_0..3, path4..1, pred.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from avs_jax import backbones
from avs_jax.backbones.vggish import VGGish
from avs_jax.layers.blocks import BatchNorm, Conv, Dense, LayerNorm, relu
from avs_jax.layers.resize import resize_bilinear
from avs_jax.models.inputs import audio_embedding
from avs_jax.models.outputs import TPAVIOutputs

DILATIONS = (3, 6, 12, 18)
RELEASED_GROUP = 5  # frames that interact in the released code, whatever the clip's length


class TPAVI(nn.Module):
    """Visual backbone, VGGish and the head. `config` is config.model; its keys are described in configs/base.py."""

    config: Any

    def setup(self):
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        self.backbone = backbones.create(c.backbone, dtype, c.remat)
        self.vggish = VGGish(c.vggish.widths, c.vggish.hidden_dim, c.vggish.embedding_dim, dtype)
        self.head = Head(c)

    def __call__(self, inputs: Mapping[str, jax.Array], train: bool = False) -> TPAVIOutputs:
        """Segments what sounds.

        inputs: frames (B, T, H, W, 3) float32, normalised; log_mel (B, T, 96, 64) or audio_embedding (B, T, 128);
        frame_valid (B, T) bool, optional: of other frames the sound, all features and all outputs are zero.

        Raises:
          ValueError: H or W is not a multiple of 32, or T is not one of 5 in the released variant.
        """
        frames = inputs["frames"]
        clips, size = frames.shape[:2], frames.shape[2:4]
        if size[0] % 32 or size[1] % 32:
            raise ValueError(f"frames of {size[0]} x {size[1]} pixels; both sizes must be multiples of 32")

        maps = self.backbone(frames.reshape(-1, *frames.shape[2:]), train)
        for i, feature in enumerate(maps):
            self.sow("intermediates", f"backbone_{i}", feature)
        embedding = audio_embedding(inputs, self.vggish, self.config.vggish.frozen)
        self.sow("intermediates", "audio_embedding", embedding)
        outputs = self.head(maps, embedding, inputs.get("frame_valid", jnp.ones(clips, bool)), train)
        return jax.tree.map(lambda x: x.astype(jnp.float32), outputs)


class Head(nn.Module):
    """Everything after the two encoders: dilated heads, interaction with the sound, decoder from coarse to fine."""

    config: Any

    @nn.compact
    def __call__(
        self, maps: tuple[jax.Array, ...], audio: jax.Array, frame_valid: jax.Array, train: bool
    ) -> TPAVIOutputs:
        """From maps (N, h_i, w_i, C_i), i = 0 to 3, audio (B, T, A) and frame_valid (B, T) bool."""
        c, dtype, clips = self.config, jnp.dtype(self.config.dtype), frame_valid.shape

        def valid(x: jax.Array) -> jax.Array:
            return jnp.where(frame_valid.reshape(-1, 1, 1, 1), x, 0)

        def unfold(x: jax.Array) -> jax.Array:
            return x.reshape(*clips, *x.shape[1:])

        audio = jnp.where(frame_valid[..., None], audio, 0)
        features, sounds = [], []
        for i, feature in enumerate(maps):
            feature = DilatedHead(c.embed_dim, dtype, name=f"dilated_{i}")(feature)
            self.sow("intermediates", f"conv{i + 1}", feature)
            feature, sound = valid(feature), None
            if i in c.stages:
                feature, sound = StageInteraction(c, name=f"interaction_{i}")(unfold(feature), audio, train)
                self.sow("intermediates", f"audio_fea_{i}", sound)
                feature = valid(feature.reshape(maps[i].shape[:3] + feature.shape[-1:]))
            # The released code's residual units rectify their input in place: what the losses see is rectified.
            features.append(relu(feature))
            self.sow("intermediates", f"feature_map_{i}", features[-1])
            sounds.append(sound)

        x = None
        for i in (3, 2, 1, 0):
            x = FusionBlock(dtype, name=f"path_{i}")(features[i], x)
            self.sow("intermediates", f"path{i + 1}", x)
            x = valid(x)
        mask_logits = valid(MaskPredictor(c.tail_dims, c.num_classes, dtype, name="predictor")(x))
        self.sow("intermediates", "pred", mask_logits)
        return TPAVIOutputs(unfold(mask_logits), unfold(x), tuple(map(unfold, features)), tuple(sounds))


class DilatedHead(nn.Module):
    """Sum of four dilated 3x3 convolutions: (N, h, w, C) -> (N, h, w, features)."""

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def conv(dilation: int) -> jax.Array:
            return Conv(
                self.features,
                3,
                padding=dilation,
                dilation=dilation,
                kernel_init=nn.initializers.normal(0.01),
                dtype=self.dtype,
                name=f"conv_{dilation}",
            )(x)

        return sum(conv(dilation) for dilation in DILATIONS)


class StageInteraction(nn.Module):
    """One stage's interaction: audio-visual, visual-visual, or the mean of both."""

    config: Any

    @nn.compact
    def __call__(self, x: jax.Array, audio: jax.Array, train: bool) -> tuple[jax.Array, jax.Array | None]:
        """x (B, T, h, w, D), audio (B, T, A) -> the new map, and the sound (B, T, D) that it met or None."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        if not (c.audio_visual or c.visual_visual):
            raise ValueError("config.model.stages needs audio_visual=True or visual_visual=True")
        group = RELEASED_GROUP if c.variant == "released" else x.shape[1]
        if x.shape[1] % group:
            raise ValueError(f"{x.shape[1]} frames a clip; config.model.variant='released' takes multiples of {group}")

        interact = PixelwiseInteraction(c.inter_dim, dtype, name="tpavi")
        groups = x.reshape(-1, group, *x.shape[2:])
        results, sound = [], None
        if c.visual_visual:
            results.append(interact(groups, None, train))
        if c.audio_visual:
            sound = Dense(x.shape[-1], use_bias=c.align_bias, dtype=dtype, name="align_channel")(audio)
            results.append(interact(groups, sound.reshape(-1, group, sound.shape[-1]), train))
            self.sow("intermediates", "audio_visual", results[-1])
        return (sum(results) / len(results)).reshape(x.shape), sound


class PixelwiseInteraction(nn.Module):
    """Temporal pixel-wise audio-visual interaction: every pixel of every frame looks at every other one's sound.

    z = LayerNorm(x + W_z(alpha g(x))) with alpha = theta(x) phi(sound)^T / (T h w), the sound of a frame standing at
    each of its pixels (ECCV paper, equation 4). There is no softmax, so theta (phi^T g) is the same without the
    (T h w) x (T h w) matrix; and as phi is one vector a frame, g is only needed as the frame's mean.
    """

    inter_dim: int = 128
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, sound: jax.Array | None, train: bool) -> jax.Array:
        """x (B, T, h, w, D), sound (B, T, D), or None to let pixels look at pixels -> (B, T, h, w, D)."""

        def project(x: jax.Array, name: str) -> jax.Array:
            return Dense(self.inter_dim, dtype=self.dtype, name=name)(x)

        if sound is None:
            keys = values = x.reshape(*x.shape[:2], -1, x.shape[-1])  # (B, T, h w, D)
        else:
            keys, values = sound[:, :, None], jnp.mean(x, axis=(2, 3))[:, :, None]  # (B, T, 1, D)
        phi, g = project(keys, "phi"), project(values, "g")
        accumulate = jnp.promote_types(self.dtype, jnp.float32)
        context = jnp.einsum("btpi,btpj->bij", phi, g, preferred_element_type=accumulate)
        context = (context / (phi.shape[1] * phi.shape[2])).astype(self.dtype)

        y = jnp.einsum("bthwi,bij->bthwj", project(x, "theta"), context)
        y = Dense(x.shape[-1], dtype=self.dtype, name="W_z")(y)
        y = BatchNorm(scale_init=nn.initializers.zeros, dtype=self.dtype, name="norm")(y, train)
        return LayerNorm(dtype=self.dtype, name="layer_norm")(y + x)


class FusionBlock(nn.Module):
    """One step of the decoder: adds a finer map to a coarser one's result, refines, and doubles the size."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, feature: jax.Array, coarser: jax.Array | None = None) -> jax.Array:
        """feature (N, h, w, D), coarser of the same shape or None -> (N, 2 h, 2 w, D)."""
        if coarser is None:
            x = feature
        else:
            x = coarser + ResidualUnit(self.dtype, name="unit1")(feature)
        x = ResidualUnit(self.dtype, name="unit2")(x)
        return resize_bilinear(x, (2 * x.shape[1], 2 * x.shape[2]), align_corners=True)


class ResidualUnit(nn.Module):
    """Pre-activated residual unit (N, h, w, D) -> (N, h, w, D). The shortcut, too, is rectified, as released."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = relu(x)
        y = relu(Conv(x.shape[-1], 3, padding=1, dtype=self.dtype, name="conv1")(x))
        return Conv(x.shape[-1], 3, padding=1, dtype=self.dtype, name="conv2")(y) + x


class MaskPredictor(nn.Module):
    """Logits (N, 2 h, 2 w, classes) of the decoder's last map (N, h, w, D)."""

    hidden: tuple[int, int]
    num_classes: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        height, width = x.shape[1:3]
        x = Conv(self.hidden[0], 3, padding=1, dtype=self.dtype, name="conv_0")(x)
        x = resize_bilinear(x, (2 * height, 2 * width))  # no activation before it
        x = relu(Conv(self.hidden[1], 3, padding=1, dtype=self.dtype, name="conv_1")(x))
        return Dense(self.num_classes, dtype=self.dtype, name="conv_2")(x)
