"""AVSegFormer (Gao et al., "AVSegFormer: Audio-Visual Segmentation with Transformer", AAAI 2024).

One file, read from the top: the model, its head, and the head's parts in the order in which data passes them.

Shapes: B clips of T frames of H x W pixels; N = B T frames, since no operation mixes frames; D = `embed_dim`;
Q = `num_queries`; h, w = H / 4, W / 4; S tokens of the levels 1/8, 1/16, 1/32 together. Maps are NHWC.

`variant` tells the released code ("released") from the paper ("paper") where they differ within the model: in the
mixer (equations 2 and 3) and in how the mixing loss reads the mask feature. What the paper does not spell out
(normalisation, the convolutions around the mask feature and at the end) follows the released code in both.

Intermediate tensors are sown into the collection "intermediates" under the names audio_embedding, audio_feat,
backbone_0..3, in_proj_0..3, query_generator_0.., encoder_0.., decoder_0.., lateral, out_conv, gate, mlp, fc_0,
mask_feature, pred.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jax.ad_checkpoint import checkpoint_name

from avs_jax import backbones
from avs_jax.backbones.vggish import VGGish
from avs_jax.compiler import by_platform
from avs_jax.layers import order, remat, stack
from avs_jax.layers.attention import DecoderLayer, MultiHeadAttention, attend
from avs_jax.layers.blocks import Conv, Dense, GroupNorm, Weights, relu, xavier_uniform
from avs_jax.layers.deformable import DeformableEncoderLayer
from avs_jax.layers.heads import merge_heads, split_heads
from avs_jax.layers.levels import join_levels
from avs_jax.layers.loops import one_by_one
from avs_jax.layers.products import conv2d, matmul
from avs_jax.layers.reduced import attend_once, upsampled_conv
from avs_jax.layers.resize import resize_bilinear
from avs_jax.models.inputs import audio_embedding
from avs_jax.models.outputs import AVSegFormerOutputs

xavier = xavier_uniform()  # of every kernel and embedding of the head, except where the layers say otherwise
Linear = functools.partial(Dense, kernel_init=xavier)


class AVSegFormer(nn.Module):
    """Visual backbone, VGGish and the head. `config` is config.model; its keys are described in configs/base.py."""

    config: Any

    def setup(self):
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        self.backbone = backbones.create(c.backbone, dtype, c.remat)
        self.vggish = VGGish(c.vggish.widths, c.vggish.hidden_dim, c.vggish.embedding_dim, dtype)
        self.audio_proj = Dense(c.embed_dim, dtype=dtype)
        self.head = AVSegHead(c)

    def __call__(self, inputs: Mapping[str, jax.Array], train: bool = False) -> AVSegFormerOutputs:
        """Segments what sounds.

        inputs: frames (B, T, H, W, 3) float32, normalised; log_mel (B, T, 96, 64) or audio_embedding (B, T, 128);
        frame_valid (B, T) bool, optional: of other frames the features are zeroed, and all outputs are zero.
        H and W must be multiples of 4, or of what the backbone asks; otherwise ValueError.
        """
        frames = inputs["frames"]
        clips = frames.shape[:2]
        if frames.shape[2] % 4 or frames.shape[3] % 4:
            raise ValueError(
                f"frames of {frames.shape[2]} x {frames.shape[3]} pixels; both sizes must be multiples of 4"
            )

        audio = self.audio_tokens(inputs)
        maps = self.backbone(frames.reshape(-1, *frames.shape[2:]), train)
        for i, feature in enumerate(maps):
            self.sow("intermediates", f"backbone_{i}", feature)

        valid = inputs.get("frame_valid", jnp.ones(clips, bool)).reshape(-1, 1, 1, 1)
        maps = tuple(jnp.where(valid, feature, 0) for feature in maps)
        head = order.parameters_first(functools.partial(AVSegHead.__call__, deterministic=not train))
        outputs = head(self.head, maps, audio)
        outputs = jax.tree.map(lambda x: jnp.where(valid, x, 0).astype(jnp.float32), outputs)
        self.sow("intermediates", "mask_feature", outputs.mask_features)
        self.sow("intermediates", "pred", outputs.mask_logits)
        return jax.tree.map(lambda x: x.reshape(*clips, *x.shape[1:]), outputs)

    def audio_tokens(self, inputs: Mapping[str, jax.Array]) -> jax.Array:
        """One token (N, 1, D) a frame, of its own second of sound."""
        embedding = audio_embedding(inputs, self.vggish, self.config.vggish.frozen)
        embedding = embedding.reshape(-1, embedding.shape[-1])
        self.sow("intermediates", "audio_embedding", embedding)
        audio = self.audio_proj(embedding)[:, None]
        self.sow("intermediates", "audio_feat", audio)
        return audio


class AVSegHead(nn.Module):
    """What follows the two encoders: queries made of audio, a mask feature, and their product."""

    config: Any

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], audio: jax.Array, deterministic: bool = True) -> AVSegFormerOutputs:
        """From maps (N, H / s, W / s, C_s), s = 4, 8, 16, 32, and audio (N, 1, D); N stays folded in the outputs."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        maps = [self.project(i, feature) for i, feature in enumerate(maps)]  # (N, H / s, W / s, D)

        memory = PixelEncoder(c, name="encoder")(maps[1:], deterministic)  # (N, S, D)
        queries = QueryGenerator(c, name="query_generator")(audio)  # (N, Q, D)
        if c.learnable_queries:
            learnable = self.param("learnable_query", xavier, (c.num_queries, c.embed_dim), jnp.float32)
            queries += learnable.astype(dtype)
        queries = QueryDecoder(c, name="decoder")(queries, memory, deterministic)

        to_feature, to_masks = remat.part(MaskFeature, c.remat, static_argnums=(3,)), remat.part(MaskPredictor, c.remat)
        mask_feature = to_feature(dtype, name="mask_feature")(maps[0], memory, maps[1].shape[1:3])  # (N, h, w, D)
        mask_feature = self.mix(mask_feature, audio)
        mask_logits = to_masks(c, name="predictor")(mask_feature, queries)  # (N, H, W, classes)
        mix_logits = None
        if c.variant == "paper":
            mix_logits = Linear(1, dtype=dtype, name="mix_proj")(mask_feature)
        return AVSegFormerOutputs(mask_logits, mask_feature, mix_logits)

    def project(self, level: int, feature: jax.Array) -> jax.Array:
        """Brings a map to D channels."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        feature = Linear(c.embed_dim, dtype=dtype, name=f"input_conv_{level}")(feature)
        feature = GroupNorm(dtype=dtype, name=f"input_norm_{level}")(feature)
        self.sow("intermediates", f"in_proj_{level}", feature)
        return feature

    def mix(self, mask_feature: jax.Array, audio: jax.Array) -> jax.Array:
        """The cross-modal mixer, in the kinds that the paper's table 2 compares."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        match c.mixer:
            case "channel":
                return ChannelMixer(c.num_heads, c.variant, dtype, c.reduced, name="mixer")(mask_feature, audio)
            case "cross":
                return CrossAttentionMixer(c.num_heads, dtype, name="mixer")(mask_feature, audio)
            case "none":
                return mask_feature
        raise ValueError(f"config.model.mixer is {c.mixer!r}; known mixers: channel, cross, none")


class PixelEncoder(nn.Module):
    """Deformable self-attention over the levels 1/8, 1/16, 1/32 together."""

    config: Any

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], deterministic: bool) -> jax.Array:
        """Maps (N, h_l, w_l, D) -> tokens (N, S, D), level by level, each row by row."""
        c, e, dtype = self.config, self.config.encoder, jnp.dtype(self.config.dtype)
        level_embed = self.param("level_embed", nn.initializers.normal(1.0), (len(maps), c.embed_dim), jnp.float32)
        tokens, position, centres, shapes = join_levels(maps, level_embed, normalize=False)
        layer_type = remat.block(DeformableEncoderLayer, c.remat, static_argnums=(4, 5), in_scan=True)
        layer = layer_type(c.num_heads, e.num_points, e.ffn_dim, e.dropout, xavier, c.deformable, dtype, name="layers")
        tokens, each = stack.run(layer, e.num_layers, tokens, position, centres, shapes, deterministic)
        stack.sow(self, "encoder", each)
        return tokens


class QueryGenerator(nn.Module):
    """Queries (N, Q, D) out of the audio token (N, 1, D) of each frame."""

    config: Any

    @nn.compact
    def __call__(self, audio: jax.Array) -> jax.Array:
        c, g, dtype = self.config, self.config.query_generator, jnp.dtype(self.config.dtype)
        shape = (audio.shape[0], c.num_queries, c.embed_dim)
        if g.name == "repeat":
            return jnp.broadcast_to(audio, shape)
        query = self.param("query", xavier, shape[1:], jnp.float32)
        layer_type = remat.block(DecoderLayer, c.remat, static_argnums=(3,), in_scan=True)
        layer = layer_type(c.num_heads, g.ffn_dim, 0.0, False, xavier, dtype, name="layers")
        queries, each = stack.run(layer, g.num_layers, jnp.broadcast_to(query.astype(dtype), shape), audio, True)
        stack.sow(self, "query_generator", each)
        return queries


class QueryDecoder(nn.Module):
    """Queries (N, Q, D) read the encoder's tokens, of all levels."""

    config: Any

    @nn.compact
    def __call__(self, queries: jax.Array, memory: jax.Array, deterministic: bool) -> jax.Array:
        c, d, dtype = self.config, self.config.decoder, jnp.dtype(self.config.dtype)
        layer_type = remat.block(DecoderLayer, c.remat, static_argnums=(3,), in_scan=True)
        layer = layer_type(c.num_heads, d.ffn_dim, d.dropout, True, xavier, dtype, name="layers")
        queries, each = stack.run(layer, d.num_layers, queries, memory, deterministic)
        stack.sow(self, "decoder", each)
        return queries


class MaskFeature(nn.Module):
    """The feature that masks are read from (N, h, w, D): the backbone's 1/4 map plus the encoder's 1/8 level."""

    dtype: Dtype

    @nn.compact
    def __call__(self, finest: jax.Array, memory: jax.Array, shape: tuple[int, int]) -> jax.Array:
        """finest: (N, h, w, D); memory: (N, S, D), which starts with the 1/8 level of `shape`."""
        frames, features = memory.shape[0], memory.shape[-1]
        lateral = Linear(features, dtype=self.dtype, name="lateral_conv")(finest)
        lateral = GroupNorm(dtype=self.dtype, name="lateral_norm")(lateral)
        self.sow("intermediates", "lateral", lateral)

        encoded = memory[:, : shape[0] * shape[1]].reshape(frames, *shape, features)
        x = lateral + resize_bilinear(encoded, finest.shape[1:3])
        x = Conv(features, 3, padding=1, kernel_init=xavier, dtype=self.dtype, name="output_conv")(x)
        x = relu(GroupNorm(dtype=self.dtype, name="output_norm")(x))
        self.sow("intermediates", "out_conv", x)
        return x


class ChannelMixer(nn.Module):
    """Channel attention: what the audio finds in the mask feature M weighs M's channels (equations 2 and 3).

    omega = softmax(q k^T / sqrt(D / heads)) v, with q of the audio token, k and v of M's pixels. The paper's variant
    returns M + M omega; the released code M sigmoid(proj(omega)), without a residual.
    """

    num_heads: int
    variant: str
    dtype: Dtype
    reduced: bool = True

    @nn.compact
    def __call__(self, mask_feature: jax.Array, audio: jax.Array) -> jax.Array:
        """mask_feature (N, h, w, D), audio (N, 1, D) -> (N, h, w, D)."""
        frames, features = mask_feature.shape[0], mask_feature.shape[-1]
        pixels = mask_feature.reshape(frames, -1, features)

        def kernel(name: str, stacked: int) -> jax.Array:  # (D, heads, D / heads)
            shape = (features, features)
            return split_heads(
                Weights(shape, False, xavier_uniform(stacked), self.dtype, name=name)()[0], self.num_heads
            )

        query = jnp.einsum("nqc,chd->nqhd", audio, kernel("query", 1))  # (N, 1, heads, D / heads)
        if self.reduced:
            omega = attend_once(query[:, 0], pixels, kernel("key", 2), kernel("value", 2))[:, None]
        else:
            key, value = (jnp.einsum("nkc,chd->nkhd", pixels, kernel(name, 2)) for name in ("key", "value"))
            omega = attend(query, key, value)
        omega = merge_heads(omega)  # (N, 1, D)
        if self.variant == "paper":
            gate = 1 + omega
        else:
            gate = nn.sigmoid(Linear(features, dtype=self.dtype, name="out")(omega))
        self.sow("intermediates", "gate", gate)
        return mask_feature * gate[:, None]


class CrossAttentionMixer(nn.Module):
    """The alternative of table 2: every pixel asks the audio, M + attention(query = M's pixels, key = value = audio).

    With the one audio token of a frame, every pixel of the frame is given the same vector. The paper gives no equation;
    the residual is that of equation 3.
    """

    num_heads: int
    dtype: Dtype

    @nn.compact
    def __call__(self, mask_feature: jax.Array, audio: jax.Array) -> jax.Array:
        """mask_feature (N, h, w, D), audio (N, 1, D) -> (N, h, w, D)."""
        pixels = mask_feature.reshape(mask_feature.shape[0], -1, mask_feature.shape[-1])
        attention = MultiHeadAttention(self.num_heads, use_bias=False, dtype=self.dtype, name="attention")
        return mask_feature + attention(pixels, audio, audio).reshape(mask_feature.shape)


class MaskPredictor(nn.Module):
    """Logits (N, 4 h, 4 w, classes) = FC(M + MLP(M Q)), of mask feature M and decoded queries Q.

    With `reduced` the same in another order: see `layers.reduced`, and the comments.
    """

    config: Any

    @nn.compact
    def __call__(self, mask_feature: jax.Array, queries: jax.Array) -> jax.Array:
        """mask_feature (N, h, w, D), queries (N, Q, D)."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        features = mask_feature.shape[-1]

        widths = (c.num_queries, c.mlp_dim, c.mlp_dim, features)
        layers = [
            Weights(shape, kernel_init=xavier, dtype=dtype, name=f"mlp_{i}")()
            for i, shape in enumerate(itertools.pairwise(widths))
        ]
        mlp = functools.partial(_query_mlp, c.reduced, layers)
        x = by_platform(mask_feature, queries, cpu=_part_by_part(mlp), default=mlp)
        self.sow("intermediates", "mlp", x)

        widths = (features, *c.tail_dims)
        first, second = (
            Weights((3, 3, *shape), kernel_init=xavier, dtype=dtype, name=f"tail_{i}")()
            for i, shape in enumerate(itertools.pairwise(widths))
        )
        last, _ = Weights((widths[-1], c.num_classes), False, xavier, dtype, name="tail_2")()
        x = order.weights_first(_convolved)(first, mask_feature + x)
        self.sow("intermediates", "fc_0", x)
        tail = functools.partial(_upsampled, c.reduced)
        return by_platform((second, last), x, cpu=functools.partial(_frame_by_frame, tail), default=tail)


_SECOND = "second_layer"  # of the mask predictor's MLP
_PIXELS = 2048  # that it works on at a time on a CPU


def _query_mlp(reduced: bool, layers: Sequence[tuple], mask_feature: jax.Array, queries: jax.Array) -> jax.Array:
    """MLP(M Q) of mask feature M (..., h, w, D) and queries Q (..., Q, D) -> (..., h, w, D)."""
    (hidden, bias), (second, second_bias), (last, last_bias) = layers
    mask_feature, queries = mask_feature.astype(hidden.dtype), queries.astype(hidden.dtype)
    if reduced:  # M (Q W) in place of (M Q) W
        x = matmul(mask_feature, matmul(queries.mT, hidden))
    else:
        x = matmul(matmul(mask_feature, queries.mT), hidden)
    x = checkpoint_name(matmul(relu(x + bias), second) + second_bias, _SECOND)
    return matmul(relu(x), last) + last_bias


def _convolved(weights: tuple[jax.Array, jax.Array], x: jax.Array) -> jax.Array:
    taps, bias = weights
    return conv2d(x.astype(taps.dtype), taps, padding=1) + bias


def _upsampled(reduced: bool, weights: tuple, x: jax.Array) -> jax.Array:
    """The tail from a map (N, h, w, C) to logits (N, 4 h, 4 w, classes)."""
    (taps, bias), last = weights
    if reduced:  # no activation lies between the upsampling and the convolution
        x = upsampled_conv(x, taps, 4)
    else:
        x = conv2d(resize_bilinear(x, (4 * x.shape[1], 4 * x.shape[2])), taps, padding=1)
    return matmul(relu(x + bias), last)


def _frame_by_frame(tail: Callable[..., jax.Array], weights: tuple, x: jax.Array) -> jax.Array:
    return one_by_one(lambda weights, frame, _: tail(weights, frame[None])[0], weights, x)


def _part_by_part(mlp: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """`mlp` for a CPU, for some rows of a frame at a time. Its hidden values are the largest arrays of a training step:
    of all frames only those of the second layer are kept, which would cost most to compute again."""
    keep = jax.checkpoint_policies.save_only_these_names(_SECOND)
    remade = jax.checkpoint(mlp, prevent_cse=False, policy=keep)

    def call(mask_feature: jax.Array, queries: jax.Array) -> jax.Array:
        frames, height, width, features = mask_feature.shape
        parts = next((n for n in range(1, height) if height % n == 0 and height * width <= n * _PIXELS), height)
        rows = mask_feature.reshape(frames * parts, height // parts, width, features)
        x = jax.lax.map(lambda part: remade(*part), (rows, jnp.repeat(queries, parts, axis=0)))
        return x.reshape(mask_feature.shape)

    return call
