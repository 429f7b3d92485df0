"""Swin Transformer (Liu et al., ICCV 2021), tiny, small and base: attention in windows that shift from block to block.

It is published in two flavours. As a detector's backbone (Mask2Former, VCT) it shifts the windows of every second block
even where one window covers the map, and normalises each of its four maps. As a classifier it does not shift there and
normalises its last map alone. (Its authors decide by the map's shorter side, torchvision and timm for each side apart:
the same where images are square.)

The blocks of a stage run as one scan over pairs, plain and shifted windows, with stacked parameters (leading axis:
pair). What a pair keeps for the backward pass is for `remat` to say (see `layers.remat`).
"""

from __future__ import annotations

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype

from avs_jax.backbones.transformer import Linear, linear_normal, stacked
from avs_jax.compiler import by_platform
from avs_jax.layers import remat
from avs_jax.layers.blocks import Conv, DropPath, LayerNorm, Weights, feed_forward, gelu
from avs_jax.layers.loops import one_by_one

FLAVOURS = ("detection", "classification")
PATCH = 4
MLP_RATIO = 4
MASKED = -100.0  # added to the logits of two tokens that the shift brought together, as published; not -inf


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The four stages of one Swin, the side of its windows in tokens, and its flavour."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int = 7
    flavour: str = "detection"


ARCHITECTURES = {
    "swin_t": Architecture((96, 192, 384, 768), (2, 2, 6, 2), (3, 6, 12, 24)),
    "swin_s": Architecture((96, 192, 384, 768), (2, 2, 18, 2), (3, 6, 12, 24)),
    "swin_b": Architecture((128, 256, 512, 1024), (2, 2, 18, 2), (4, 8, 16, 32)),
}


def architecture(config) -> Architecture:
    """The stages of `config.name`, with its `window`, `flavour` and, where given, `depths` and `widths`.

    Raises:
      ValueError: a depth is odd, a width does not divide by its stage's heads, or window or flavour are unknown.
    """
    named = ARCHITECTURES[config.name]
    given = Architecture(
        tuple(config.widths) or named.widths,
        tuple(config.depths) or named.depths,
        named.heads,
        config.window,
        config.flavour,
    )
    if any(depth % 2 for depth in given.depths):
        raise ValueError(f"model.backbone.depths {given.depths}: a Swin's blocks come in pairs, give even numbers")
    if any(width % heads for width, heads in zip(given.widths, given.heads, strict=True)):
        raise ValueError(
            f"model.backbone.widths {given.widths} do not divide by the heads {given.heads} of {config.name}"
        )
    if given.window < 1:
        raise ValueError(f"model.backbone.window is {given.window}; it is a number of tokens: 7 and 12 are published")
    if given.flavour not in FLAVOURS:
        raise ValueError(f"model.backbone.flavour is {given.flavour!r}; it must be one of {', '.join(FLAVOURS)}")
    return given


class Swin(nn.Module):
    """Frames (N, H, W, 3) -> four maps (N, H/4, W/4, widths[0]) ... (N, H/32, W/32, widths[3]), sizes rounded up.

    The un-normed maps are sown as `map1` to `map4`, in float32. `drop_path` is the rate of the last block; it rises
    linearly from 0 at the first one (rng stream `dropout`).
    """

    architecture: Architecture
    drop_path: float = 0.1
    remat: str = "dots"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        stages = self.architecture
        detection = stages.flavour == "detection"
        rates = np.linspace(0, self.drop_path, sum(stages.depths), dtype=np.float32).reshape(-1, 2)
        maps, first = [], 0
        x = PatchEmbedding(stages.widths[0], self.dtype, name="patch_embed")(x)
        for i, depth in enumerate(stages.depths, 1):
            pairs = stacked(BlockPair, depth // 2, self.remat)(
                stages.heads[i - 1], stages.window, detection, self.dtype, name=f"stage{i}"
            )
            x = x.astype(jnp.promote_types(x.dtype, jnp.float32))  # what blocks add to is not rounded 36 times
            x, _ = pairs(x, rates[first : first + depth // 2] if train and self.drop_path else None)
            first += depth // 2
            self.sow("intermediates", f"map{i}", x)
            if detection or i == 4:
                maps.append(LayerNorm(dtype=self.dtype, name=f"norm{i}" if detection else "norm")(x))
            else:
                maps.append(x.astype(self.dtype))
            if i < 4:
                x = PatchMerging(stages.widths[i], self.dtype, name=f"merge{i}")(x)
        return tuple(maps)


class PatchEmbedding(nn.Module):
    """Patches of 4x4 pixels: (N, H, W, C) -> (N, H / 4, W / 4, width), normalised; sizes rounded up with zeros."""

    width: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = _pad_to_multiple(x, PATCH)
        x = Conv(self.width, PATCH, stride=PATCH, dtype=self.dtype, name="proj")(x)
        return LayerNorm(dtype=self.dtype, name="norm")(x)


class PatchMerging(nn.Module):
    """Joins neighbours two by two: (N, h, w, C) -> (N, h / 2, w / 2, width), sizes rounded up with zeros.

    The four neighbours' channels follow each other column by column: (0, 0), (1, 0), (0, 1), (1, 1) as (row, column).
    """

    width: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = _pad_to_multiple(x, 2)
        n, h, w, c = x.shape
        x = x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 4, 2, 5).reshape(n, h // 2, w // 2, 4 * c)
        x = LayerNorm(dtype=self.dtype, name="norm")(x)
        return Linear(self.width, use_bias=False, dtype=self.dtype, name="reduction")(x)


class BlockPair(nn.Module):
    """A block with plain and one with shifted windows on a map (N, h, w, C); (map, None) is the form of a scan's body.

    `drop_rates` are the two blocks' drop path rates, or None when nothing drops. Unless `always_shift`, nothing shifts
    where one window covers the map.
    """

    heads: int
    window: int
    always_shift: bool
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, drop_rates: jax.Array | None) -> tuple[jax.Array, None]:
        shifts = self.always_shift or min(x.shape[1:3]) > self.window
        for i, name in enumerate(("plain", "shifted")):
            shift = i * shifts * (self.window // 2)
            rate = None if drop_rates is None else drop_rates[i]
            x = Block(self.heads, self.window, shift, self.dtype, name=name)(x, rate)
        return x, None


class Block(nn.Module):
    """Pre-norm transformer block on a map (N, h, w, C), with attention in windows shifted by `shift` tokens."""

    heads: int
    window: int
    shift: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, drop_rate: jax.Array | None) -> jax.Array:
        y = LayerNorm(dtype=self.dtype, name="norm1")(x)
        y = WindowAttention(self.heads, self.window, self.shift, self.dtype, name="attn")(y)
        x = x + DropPath()(y, drop_rate)
        y = LayerNorm(dtype=self.dtype, name="norm2")(x)
        c, hidden = x.shape[-1], MLP_RATIO * x.shape[-1]
        weights = tuple(
            Weights(shape, True, linear_normal, self.dtype, nn.initializers.zeros, name=name)()
            for name, shape in (("fc1", (c, hidden)), ("fc2", (hidden, c)))
        )
        return x + DropPath()(feed_forward(weights, y.astype(self.dtype), gelu), drop_rate)


class WindowAttention(nn.Module):
    """Self attention within the windows of a map (N, h, w, C), with a learnt bias for every relative position.

    The map is padded with zeros to whole windows; the padding is attended, as published. A shifted map is rolled, and
    tokens that were not neighbours before do not attend to each other.
    """

    heads: int
    window: int
    shift: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h, w, c = x.shape[1:]
        padded = jnp.roll(_pad_to_multiple(x, self.window), (-self.shift, -self.shift), (1, 2))
        tokens = windows(padded, self.window)
        query, key, value = (
            Linear(c, dtype=self.dtype, name=name)(tokens).reshape(*tokens.shape[:-1], self.heads, c // self.heads)
            for name in ("query", "key", "value")
        )
        together = None
        if self.shift:
            region = shift_regions(*padded.shape[1:3], self.window, self.shift)
            together = jnp.asarray(region[:, :, None] == region[:, None])
        arguments = self._position_bias(), (query, key, value), together
        y = remat.product(by_platform(*arguments, cpu=_window_by_window, default=_all_windows))
        y = Linear(c, dtype=self.dtype, name="proj")(y.reshape(tokens.shape))
        y = jnp.roll(from_windows(y, padded.shape[1], padded.shape[2]), (self.shift, self.shift), (1, 2))
        return y[:, :h, :w]

    def _position_bias(self) -> jax.Array:
        """(heads, query, key)."""
        positions = (2 * self.window - 1) ** 2
        table = self.param("relative_position_bias", linear_normal, (positions, self.heads), jnp.float32)
        return table.T[:, relative_position_index(self.window)]


def _attend(bias: jax.Array, tokens: tuple[jax.Array, ...], together: jax.Array | None) -> jax.Array:
    """Attention within one window, K tokens: (K, heads, d) from query, key and value of that shape.

    bias: (heads, K, K); together: (K, K) bool, False for two tokens that the shift brought together.
    """
    query, key, value = tokens
    query = query * (1 / math.sqrt(query.shape[-1]))
    logits = jnp.einsum("qhd,khd->hqk", query, key, preferred_element_type=jnp.promote_types(query.dtype, jnp.float32))
    logits += bias
    if together is not None:
        logits += jnp.where(together, 0.0, MASKED).astype(logits.dtype)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return jnp.einsum("hqk,khd->qhd", weights, value)


def _all_windows(bias: jax.Array, tokens: tuple[jax.Array, ...], together: jax.Array | None) -> jax.Array:
    """`_attend` for every window of every frame: (N, windows, K, heads, d); together: (windows, K, K)."""
    of_frame = jax.vmap(_attend, (None, 0, None if together is None else 0))
    return jax.vmap(of_frame, (None, 0, None))(bias, tokens, together)


def _window_by_window(bias: jax.Array, tokens: tuple[jax.Array, ...], together: jax.Array | None) -> jax.Array:
    """The same for a CPU, whose cache holds the weights of one window."""
    shape = tokens[0].shape
    if together is not None:
        together = jnp.tile(together, (shape[0], 1, 1))
    flat = tuple(x.reshape(-1, *x.shape[2:]) for x in tokens)
    return one_by_one(_attend, bias, flat, together).reshape(shape)


def windows(x: jax.Array, window: int) -> jax.Array:
    """Cuts maps (N, H, W, C) into windows: (N, H * W / window**2, window**2, C), row by row."""
    n, h, w, c = x.shape
    x = x.reshape(n, h // window, window, w // window, window, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, -1, window * window, c)


def from_windows(x: jax.Array, height: int, width: int) -> jax.Array:
    """The inverse of `windows`: (N, windows, window**2, C) -> (N, height, width, C)."""
    n, _, tokens, c = x.shape
    window = math.isqrt(tokens)
    x = x.reshape(n, height // window, width // window, window, window, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, height, width, c)


def shift_regions(height: int, width: int, window: int, shift: int) -> np.ndarray:
    """Which part of a map that was rolled by `shift` each token comes from: (windows, window**2) integers."""

    def bands(size: int) -> np.ndarray:
        return np.searchsorted((size - window, size - shift), np.arange(size), side="right")

    region = 3 * bands(height)[:, None] + bands(width)
    return windows(region[None, :, :, None], window)[0, :, :, 0]


def relative_position_index(window: int) -> np.ndarray:
    """The row of the bias table for every query and key: (window**2, window**2) integers, by query minus key."""
    y, x = np.divmod(np.arange(window * window), window)
    return (y[:, None] - y + window - 1) * (2 * window - 1) + x[:, None] - x + window - 1


def _pad_to_multiple(x: jax.Array, size: int) -> jax.Array:
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % size), (0, -x.shape[2] % size), (0, 0)))
