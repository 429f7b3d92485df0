"""PVT v2 (Wang et al., Computational Visual Media 2022), b0 to b5: a pyramid transformer with reduced keys and values.

The blocks of a stage run as one scan over stacked parameters (leading axis: block), so the 52 blocks of b5 compile as
fast as four. What a block keeps for the backward pass is for `remat` to say (see `layers.remat`).
"""

from __future__ import annotations

import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from avs_jax.backbones.transformer import Linear, stacked
from avs_jax.compiler import by_platform
from avs_jax.layers.blocks import Conv, DropPath, LayerNorm, gelu
from avs_jax.layers.products import matmul

BLOCK_EPSILON = 1e-6  # of the blocks' and stages' norms; patch embeddings and reduced keys have PyTorch's 1e-5

_fan_out_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_depthwise_normal = nn.initializers.normal(math.sqrt(2 / 9))  # fan-out of one channel's 3x3 taps
_zeros = nn.initializers.zeros


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The four stages of one PVT v2."""

    widths: tuple[int, ...] = (64, 128, 320, 512)
    depths: tuple[int, ...] = (2, 2, 2, 2)
    mlp_ratios: tuple[int, ...] = (8, 8, 4, 4)
    heads: tuple[int, ...] = (1, 2, 5, 8)
    reductions: tuple[int, ...] = (8, 4, 2, 1)


ARCHITECTURES = {
    "pvt_v2_b0": Architecture(widths=(32, 64, 160, 256)),
    "pvt_v2_b1": Architecture(),
    "pvt_v2_b2": Architecture(depths=(3, 4, 6, 3)),
    "pvt_v2_b3": Architecture(depths=(3, 4, 18, 3)),
    "pvt_v2_b4": Architecture(depths=(3, 8, 27, 3)),
    "pvt_v2_b5": Architecture(depths=(3, 6, 40, 3), mlp_ratios=(4, 4, 4, 4)),
}


def architecture(config) -> Architecture:
    """The stages of `config.name`, with the depths and widths that the configuration gives in place of its own."""
    named = ARCHITECTURES[config.name]
    given = dataclasses.replace(
        named, depths=tuple(config.depths) or named.depths, widths=tuple(config.widths) or named.widths
    )
    for width, heads in zip(given.widths, given.heads, strict=True):
        if width % heads:
            raise ValueError(
                f"model.backbone.widths {given.widths} do not divide by the heads {given.heads} of {config.name}"
            )
    return given


class PVTv2(nn.Module):
    """Frames (N, H, W, 3) -> four maps (N, H/4, W/4, widths[0]) ... (N, H/32, W/32, widths[3]), normalised.

    `drop_path` is the rate of the last block; it rises linearly from 0 at the first one (rng stream `dropout`).
    """

    architecture: Architecture
    drop_path: float = 0.1
    remat: str = "dots"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        stages = self.architecture
        rates = jnp.linspace(0, self.drop_path, sum(stages.depths))
        maps, first = [], 0
        for i, (width, depth) in enumerate(zip(stages.widths, stages.depths, strict=True)):
            x = PatchEmbedding(width, 7 if i == 0 else 3, 4 if i == 0 else 2, self.dtype, name=f"patch_embed{i + 1}")(x)
            blocks = stacked(Block, depth, self.remat)(
                stages.heads[i], stages.mlp_ratios[i], stages.reductions[i], self.dtype, name=f"stage{i + 1}"
            )
            x = x.astype(jnp.promote_types(x.dtype, jnp.float32))  # what blocks add to is not rounded 40 times
            x, _ = blocks(x, rates[first : first + depth] if train and self.drop_path else None)
            x = LayerNorm(BLOCK_EPSILON, dtype=self.dtype, name=f"norm{i + 1}")(x)
            maps.append(x)
            first += depth
        return tuple(maps)


class PatchEmbedding(nn.Module):
    """Overlapping patches: (N, H, W, C) -> (N, H / stride, W / stride, width), normalised."""

    width: int
    size: int
    stride: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = Conv(
            self.width,
            self.size,
            stride=self.stride,
            padding=self.size // 2,
            kernel_init=_fan_out_normal,
            bias_init=_zeros,
            dtype=self.dtype,
            name="proj",
        )(x)
        return LayerNorm(dtype=self.dtype, name="norm")(x)


class Block(nn.Module):
    """Pre-norm transformer block on a map (N, h, w, C); returns (map, None), the form that a scan needs.

    `drop_rate` is the block's drop path rate, or None when nothing drops.
    """

    heads: int
    mlp_ratio: int
    reduction: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, drop_rate: jax.Array | None) -> tuple[jax.Array, None]:
        y = LayerNorm(BLOCK_EPSILON, dtype=self.dtype, name="norm1")(x)
        y = ReducedAttention(self.heads, self.reduction, self.dtype, name="attn")(y)
        x = x + DropPath()(y, drop_rate)
        y = LayerNorm(BLOCK_EPSILON, dtype=self.dtype, name="norm2")(x)
        y = ConvolutionalMLP(self.mlp_ratio, self.dtype, name="mlp")(y)
        return x + DropPath()(y, drop_rate), None


class ReducedAttention(nn.Module):
    """Self attention on a map (N, h, w, C) whose keys and values come from the map reduced `reduction` times a side."""

    heads: int
    reduction: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        n, h, w, c = x.shape
        project = functools.partial(Linear, dtype=self.dtype, kept=False)  # cheap beside the rest of a block
        query = project(c, name="q")(x).reshape(n, h * w, self.heads, c // self.heads)
        if self.reduction > 1:
            x = SpatialReduction(self.reduction, self.dtype, name="sr")(x)
            x = LayerNorm(dtype=self.dtype, name="norm")(x)
        key_value = project(2 * c, name="kv")(x).reshape(n, -1, 2, self.heads, c // self.heads)
        y = jax.nn.dot_product_attention(query, key_value[:, :, 0], key_value[:, :, 1])
        return project(c, name="proj")(y.reshape(n, h, w, c))


class SpatialReduction(nn.Module):
    """Convolution whose kernel size is its stride: (N, h, w, C) -> (N, h // size, w // size, C).

    Incomplete patches are cut off. As patches do not overlap, it is a reshape and one matrix product, whose weight
    gradient is several times cheaper than a convolution's.
    """

    size: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        n, h, w, c = x.shape
        size, rows, columns = self.size, h // self.size, w // self.size
        kernel = self.param("kernel", _fan_out_normal, (size, size, c, c), jnp.float32).astype(self.dtype)
        bias = self.param("bias", _zeros, (c,), jnp.float32).astype(self.dtype)
        patches = x[:, : rows * size, : columns * size].reshape(n, rows, size, columns, size, c)
        patches = patches.transpose(0, 1, 3, 2, 4, 5).reshape(n, rows, columns, size * size * c)
        return matmul(patches, kernel.reshape(size * size * c, c)) + bias


class ConvolutionalMLP(nn.Module):
    """Linear, depthwise 3x3 convolution, exact GELU, linear on a map (N, h, w, C)."""

    ratio: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = x.shape[-1]
        # The widest values of a block: computed again cheaply, kept they take half of the memory of the backbone.
        y = Linear(self.ratio * c, dtype=self.dtype, kept=False, name="fc1")(x)
        y = DepthwiseConvGELU(self.dtype, name="dwconv")(y)
        return Linear(c, dtype=self.dtype, name="fc2")(y)


class DepthwiseConvGELU(nn.Module):
    """Depthwise 3x3 convolution with bias on a map (N, h, w, C), zeros outside; GELU. The kernel is (3, 3, 1, C)."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = x.shape[-1]
        kernel = self.param("kernel", _depthwise_normal, (3, 3, 1, c), jnp.float32)
        bias = self.param("bias", _zeros, (c,), jnp.float32)
        taps = jnp.concatenate([kernel.reshape(9, c), bias[None]])
        # Ten sums in a row are not rounded; what is kept for the backward pass is of the type of x.
        return depthwise_gelu(x, taps.astype(jnp.promote_types(self.dtype, jnp.float32)))


@jax.custom_vjp
def depthwise_gelu(x: jax.Array, taps: jax.Array) -> jax.Array:
    """GELU of x (N, h, w, C) convolved, each channel with its own nine taps and bias (10, C), zeros outside.

    As nine shifted products: XLA's grouped convolution is an order of magnitude slower on a CPU, forward and backward.
    Of the forward pass only x is kept.
    """
    taps = _materialised(taps)
    return gelu(_convolved(_padded(x), taps[:9]) + taps[9]).astype(x.dtype)


def _depthwise_gelu_forward(x: jax.Array, taps: jax.Array):
    return depthwise_gelu(x, taps), (x, taps)


def _depthwise_gelu_backward(saved, gradient: jax.Array):
    x, taps = saved
    taps, padded = _materialised(taps), _padded(x)
    gradient = gradient * _gelu_slope(_convolved(padded, taps[:9]) + taps[9])
    of_taps = [jnp.sum(shifted * gradient, axis=(0, 1, 2)) for shifted in _shifts(padded)]
    of_bias = jnp.sum(gradient, axis=(0, 1, 2))
    return _convolved(_padded(gradient), taps[8::-1]).astype(x.dtype), jnp.stack([*of_taps, of_bias])


depthwise_gelu.defvjp(_depthwise_gelu_forward, _depthwise_gelu_backward)


def _gelu_slope(x: jax.Array) -> jax.Array:
    density = jnp.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))
    return 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5))) + x * density


def _convolved(padded: jax.Array, taps: jax.Array) -> jax.Array:
    return sum(shifted * tap for shifted, tap in zip(_shifts(padded), taps, strict=True))


def _padded(x: jax.Array) -> jax.Array:
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _shifts(padded: jax.Array) -> list[jax.Array]:
    height, width = padded.shape[1] - 2, padded.shape[2] - 2
    return [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]


def _materialised(x: jax.Array) -> jax.Array:
    """x (rows, C); on a CPU as a product with the identity, which XLA does not fuse with what reads it.

    In a scan over blocks it would otherwise slice the stacked parameters anew for every element of the map and tap: the
    convolution takes seven times as long. A barrier does not help, XLA:CPU drops it before it fuses. The product has
    a batch axis, so that rematerialisation, which keeps products without one, does not stack it up again.
    """

    def product(x: jax.Array) -> jax.Array:
        return jnp.matmul(jnp.eye(len(x), dtype=x.dtype)[None], x[None], precision=jax.lax.Precision.HIGHEST)[0]

    return by_platform(x, cpu=product, default=lambda x: x)
