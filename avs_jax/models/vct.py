"""VCT (Huang et al., "Revisiting Audio-Visual Segmentation with Vision-Centric Transformer", CVPR 2025).

One file, read from the top: the model, and its parts in the order in which data passes them; what it shares with
Mask2Former is in layers/pixel_decoder.py and layers/mask_decoder.py.

Shapes: B clips of T frames of H x W pixels; N = B T frames, since no operation mixes frames; D = `embed_dim`;
Q = `num_queries`; K prototypes; h, w = H / 4, W / 4 and S = h w pixels. Maps are NHWC.

`variant` tells the released code ("released") from the paper ("paper"). In the paper the queries are made of the
backbone's finest map V_2 (instead of the mask features) and of nothing else (instead of being added to learnt ones);
prototypes are read by a single softmax without norm, and compared with the sound by an inner product; and the decoder
is made of whole units of four layers (instead of ending with one more look at the sound).

Intermediate tensors are sown into the collection "intermediates" under the names backbone_0..3, channel_gate_0..3,
fused_0..3, vggish_features, audio_tokens, mask_features, multi_scale_0..2; within query_generator pixels,
visual_embeddings, prompted, vision_queries, and within its grouping assignment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from avs_jax import backbones
from avs_jax.backbones.vggish import VGGish
from avs_jax.layers.attention import MultiHeadAttention
from avs_jax.layers.blocks import Conv, Dense, LayerNorm, mlp
from avs_jax.layers.grouping import GroupingAttention
from avs_jax.layers.mask_decoder import MaskedDecoder, MaskPredictions
from avs_jax.layers.pixel_decoder import PixelDecoder
from avs_jax.models.outputs import VCTOutputs

STRIDE = 32  # of the backbone's coarsest map
UNIT = 4  # layers of a decoder unit: the sound, then the maps at 1/32, 1/16, 1/8
FUSIONS = ("none", "multiply", "add", "concat")


class VCT(nn.Module):
    """The encoders, the pixel decoder, the query generator and the decoder. `config` is config.model."""

    config: Any

    def setup(self):
        dtype = jnp.dtype(self.config.dtype)
        self.backbone = backbones.create(self.config.backbone, dtype, self.config.remat)
        if self.config.pre_masks:
            self.pre_mask_backbone = backbones.create(self.config.backbone, dtype, self.config.remat)

    @nn.compact
    def __call__(self, inputs: Mapping[str, jax.Array], train: bool = False) -> VCTOutputs:
        """Segments what sounds.

        inputs: frames (B, T, H, W, 3) float32, normalised; log_mel (B, T, 96, 64); with `config.pre_masks` also
        pre_masks, as frames; frame_valid (B, T) bool, optional: other frames are left empty.
        In training, drop path and the Gumbel noise draw from the rng stream "dropout".

        Raises:
          ValueError: H and W are no multiples of 32, or do not have `config.query_generator.num_pixels` at 1/4;
            pre_masks are missing; or a name in `config` is unknown.
        """
        c, p, dtype = self.config, self.config.pixel_decoder, jnp.dtype(self.config.dtype)
        clips = inputs["frames"].shape[:2]
        self._check_size(*inputs["frames"].shape[2:4])
        audio = self._listen(inputs["log_mel"])
        maps = self._look(inputs, train)
        if c.fusion != "none":
            maps = [EarlyFusion(c.fusion, dtype, name=f"fusion_{i}")(x, audio) for i, x in enumerate(maps)]

        sizes = c.embed_dim, p.num_layers, c.num_heads, p.num_points, p.ffn_dim
        mask_features, levels = PixelDecoder(*sizes, c.deformable, c.remat, dtype, name="pixel_decoder")(maps)
        self.sow("intermediates", "mask_features", mask_features)
        for i, level in enumerate(levels):
            self.sow("intermediates", f"multi_scale_{i}", level)

        source = mask_features if c.variant == "released" else maps[0]
        queries, prototypes = QueryGenerator(c, name="query_generator")(source, audio, train)
        predictions = self._decode(queries, audio, levels, mask_features)
        outputs = VCTOutputs(
            *(x.reshape(len(x), *clips, *x.shape[2:]) for x in predictions),
            frame_valid=inputs.get("frame_valid", jnp.ones(clips, bool)),
        )
        if prototypes is None:
            return outputs
        similarity = PrototypeSimilarity(c.variant, dtype, name="similarity")(audio, prototypes)
        return outputs.replace(prototype_logits=similarity.reshape(*clips, -1))

    def _check_size(self, height: int, width: int) -> None:
        g, pixels = self.config.query_generator, height * width // 16
        if height % STRIDE or width % STRIDE:
            raise ValueError(f"frames of {height} x {width} pixels; both sizes must be multiples of {STRIDE}")
        if g.name == "vision" and pixels != g.num_pixels:
            raise ValueError(
                f"frames of {height} x {width} have {pixels} pixels at 1/4, config.model.query_generator.num_pixels is "
                f"{g.num_pixels}: the weights that make the queries belong to one size of image"
            )

    def _look(self, inputs: Mapping[str, jax.Array], train: bool) -> list[jax.Array]:
        """The backbone's maps, fine to coarse; those of the pre-segmented images are added as far as gates let them."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        train = train and not (c.frozen_batch_norm and c.backbone.name.startswith("resnet"))
        maps = self.backbone(_fold(inputs["frames"]), train)
        for i, feature in enumerate(maps):
            self.sow("intermediates", f"backbone_{i}", feature)
        if not c.pre_masks:
            return list(maps)
        if "pre_masks" not in inputs:
            raise ValueError("config.model.pre_masks is on, but the batch has no 'pre_masks' (B, T, H, W, 3)")
        extra = self.pre_mask_backbone(_fold(inputs["pre_masks"]), train)
        fused = []
        for i, (feature, other) in enumerate(zip(maps, extra, strict=True)):
            gate = ChannelGate(dtype, name=f"gate_{i}")(other)
            self.sow("intermediates", f"channel_gate_{i}", gate)
            fused.append(feature + gate * other)
            self.sow("intermediates", f"fused_{i}", fused[-1])
        return fused

    def _listen(self, log_mel: jax.Array) -> jax.Array:
        """Audio tokens (N, 6, 4, D), by time and frequency, of each frame's own second of sound."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        features = VGGish(c.vggish.widths, hidden_dim=0, dtype=dtype, name="vggish")(_fold(log_mel))
        if c.vggish.frozen:
            features = jax.lax.stop_gradient(features)
        self.sow("intermediates", "vggish_features", features)
        audio = mlp(features, (c.audio_mlp_dim, c.audio_mlp_dim, c.embed_dim), dtype, "audio_mlp")
        self.sow("intermediates", "audio_tokens", audio)
        return audio

    def _decode(
        self, queries: jax.Array, audio: jax.Array, levels: tuple[jax.Array, ...], mask_features: jax.Array
    ) -> MaskPredictions:
        """The decoder's predictions; queries that are made of sound, all alike but for learnt ones, read the image."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        released, of_sound, layers = c.variant == "released", c.query_generator.name == "audio", c.decoder.num_layers
        sizes = layers if released else layers // UNIT * UNIT, c.num_heads, c.decoder.ffn_dim
        learnt = released or of_sound
        decoder = MaskedDecoder(
            c.num_queries, num_head_classes(c), *sizes, learnt, learnt, c.remat, dtype, name="decoder"
        )
        if of_sound:
            return decoder(levels, mask_features, queries)
        return decoder((audio, *levels), mask_features, queries, unmasked=(0,))


class ChannelGate(nn.Module):
    """How much of each channel of a map (N, h, w, C) is let through: (N, 1, 1, C) in [0, 1]."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, feature: jax.Array) -> jax.Array:
        width = feature.shape[-1]
        x = jnp.mean(feature, axis=(1, 2), keepdims=True)
        x = nn.relu(Dense(max(1, width // 16), dtype=self.dtype, name="fc1")(x))
        return nn.sigmoid(Dense(width, dtype=self.dtype, name="fc2")(x))


class EarlyFusion(nn.Module):
    """The alternative to asking the sound in the decoder: each map (N, h, w, C) takes in the mean audio token.

    kind: "multiply" or "add" the projected token to every pixel, or "concat" it and project both. The paper names the
    three and gives no equation.
    """

    kind: str
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, feature: jax.Array, audio: jax.Array) -> jax.Array:
        width = feature.shape[-1]
        token = Dense(width, dtype=self.dtype, name="audio")(jnp.mean(audio, axis=(1, 2), keepdims=True))
        match self.kind:
            case "multiply":
                return feature * token
            case "add":
                return feature + token
            case "concat":
                both = jnp.concatenate([feature, jnp.broadcast_to(token, feature.shape)], axis=-1)
                return Dense(width, dtype=self.dtype, name="both")(both)
        raise ValueError(f"config.model.fusion is {self.kind!r}; known: {', '.join(FUSIONS)}")


class QueryGenerator(nn.Module):
    """Prototype prompted query generation (section 3.3), or one of the alternatives that the paper compares.

    name "vision": visual embeddings, then prototypes (`prototypes` > 0), then grouping (unless "none"); without both
    these are the naive vision-derived queries. name "audio": every query is the mean audio token (audio-centric).
    """

    config: Any

    @nn.compact
    def __call__(self, source: jax.Array, audio: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array | None]:
        """Queries (N, Q, D), and prototypes (K, D) or None, from a map (N, h, w, C) and audio tokens (N, 6, 4, D)."""
        c, g, dtype = self.config, self.config.query_generator, jnp.dtype(self.config.dtype)
        if g.name == "audio":
            token = jnp.mean(audio, axis=(1, 2))[:, None]
            return jnp.broadcast_to(token, (len(token), c.num_queries, c.embed_dim)), None
        if g.name != "vision":
            raise ValueError(f"config.model.query_generator.name is {g.name!r}; known: vision, audio")

        pixels = self._project(source)  # (N, S, D)
        queries = self._aggregate(pixels)
        prototypes = None
        if g.prototypes:
            shape = (g.prototypes, c.embed_dim)
            prototypes = self.param("prototypes", nn.initializers.normal(1.0), shape, jnp.float32).astype(dtype)
            queries = self._prompt(queries, prototypes)
            self.sow("intermediates", "prompted", queries)
        if g.grouping != "none":
            queries = queries + GroupingAttention(g.grouping, g.temperature, dtype, name="grouping")(
                queries, pixels, train
            )
        self.sow("intermediates", "vision_queries", queries)
        return queries, prototypes

    def _project(self, source: jax.Array) -> jax.Array:
        width, dtype = self.config.embed_dim, jnp.dtype(self.config.dtype)
        x = nn.relu(Dense(width, dtype=dtype, name="conv_0")(source))
        x = nn.relu(Conv(width, 3, padding=1, dtype=dtype, name="conv_1")(x))
        x = Dense(width, dtype=dtype, name="conv_2")(x)
        self.sow("intermediates", "pixels", x)
        return x.reshape(len(x), -1, width)

    def _aggregate(self, pixels: jax.Array) -> jax.Array:
        """Visual embeddings (N, Q, D): each channel is mixed over the pixels (N, S, D), which have fixed places."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        hidden = c.query_generator.hidden_dim
        x = mlp(pixels.swapaxes(1, 2), (hidden, hidden, c.num_queries), dtype, "mixer").swapaxes(1, 2)
        self.sow("intermediates", "visual_embeddings", x)
        return x

    def _prompt(self, queries: jax.Array, prototypes: jax.Array) -> jax.Array:
        """Audio prototype prompting: adds to queries (N, Q, D) what they find among the prototypes (K, D)."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        if c.variant == "released":
            keys = jnp.broadcast_to(prototypes, (len(queries), *prototypes.shape))
            attention = MultiHeadAttention(c.query_generator.num_heads, dtype=dtype, name="prompt")
            return LayerNorm(dtype=dtype, name="prompt_norm")(queries + attention(queries, keys, keys))
        logits = jnp.einsum("nqd,kd->nqk", queries, prototypes, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(logits / math.sqrt(c.embed_dim), axis=-1).astype(dtype)
        return queries + weights @ Dense(c.embed_dim, False, dtype=dtype, name="prompt_value")(prototypes)


class PrototypeSimilarity(nn.Module):
    """How much frames sound like the prototypes (section 3.3): the logits of the contrastive loss.

    Released: both are projected, and their cosine is scaled by a learnt factor exp(t). Paper: their inner product.
    """

    variant: str
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, audio: jax.Array, prototypes: jax.Array) -> jax.Array:
        """audio (N, 6, 4, D), prototypes (K, D) -> (N, K) float32."""
        sound = jnp.mean(audio, axis=(1, 2))
        if self.variant != "released":
            return jnp.einsum("nd,kd->nk", sound, prototypes, preferred_element_type=jnp.float32)
        init = nn.initializers.normal(sound.shape[-1] ** -0.5)
        sound = Dense(sound.shape[-1], False, init, dtype=self.dtype, name="audio_proj")(sound)
        prototypes = Dense(sound.shape[-1], False, init, dtype=self.dtype, name="prototype_proj")(prototypes)
        scale = self.param("logit_scale", nn.initializers.constant(math.log(1 / 0.07)), (), jnp.float32)
        return scaled_cosine(sound, prototypes, scale)


def scaled_cosine(a: jax.Array, b: jax.Array, scale: jax.Array) -> jax.Array:
    """exp(scale) times the cosine of each of a (N, D) with each of b (K, D): (N, K) float32."""
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    a, b = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b))
    return jnp.exp(scale) * jnp.einsum("nd,kd->nk", a, b, precision="float32")


def num_head_classes(config: Any) -> int:
    """Classes of the head, the background among them: two where `config.num_classes` is 1."""
    return max(2, config.num_classes)


def uses_prototypes(config: Any) -> bool:
    """Whether the queries of `config` = config.model are prompted by prototypes."""
    return config.query_generator.name == "vision" and config.query_generator.prototypes > 0


def _fold(x: jax.Array) -> jax.Array:
    """(B, T, ...) -> (N, ...)."""
    return x.reshape(-1, *x.shape[2:])
