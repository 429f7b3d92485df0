"""Elementary layers with PyTorch's conventions: epsilons, default initialisation, paddings, running statistics.

Parameters are float32. `dtype` is the type of the matrix products and of the result; the statistics of every
normalisation are float32 whatever the `dtype`. Parameter leaves are named `kernel`, `bias`, `scale`, `embedding`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype, Initializer

from avs_jax.compiler import by_platform
from avs_jax.layers import remat
from avs_jax.layers.dropout import Dropout, drop, fold_in
from avs_jax.layers.loops import one_by_one
from avs_jax.layers.products import conv2d, matmul


def fan_in_uniform(fan_in: int) -> Initializer:
    """PyTorch's default for kernels and biases of linear layers and convolutions: uniform within +-1 / sqrt(fan_in)."""
    bound = 1 / math.sqrt(fan_in)

    def init(key: jax.Array, shape: Sequence[int], dtype: Dtype = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def xavier_uniform(stacked: int = 1) -> Initializer:
    """Xavier uniform for kernels (..., in, out), the leading axes being the receptive field.

    `stacked` is how many such kernels PyTorch keeps as one matrix, whose joint fan-out then sets the bound: 3 for the
    query, key and value projections of its multi-head attention.
    """

    def init(key: jax.Array, shape: Sequence[int], dtype: Dtype = jnp.float32) -> jax.Array:
        receptive_field = math.prod(shape[:-2])
        bound = math.sqrt(6 / (receptive_field * (shape[-2] + stacked * shape[-1])))
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Dense(nn.Module):
    """Linear layer on the last axis: (..., C) -> (..., features). Without initialisers given, PyTorch's default.

    What is not `kept` is computed again for the backward pass by the rematerialisation policy "dots", too.
    """

    features: int
    use_bias: bool = True
    kernel_init: Initializer | None = None
    bias_init: Initializer | None = None
    dtype: Dtype = jnp.float32
    kept: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        default = fan_in_uniform(x.shape[-1])
        kernel = self.param("kernel", self.kernel_init or default, (x.shape[-1], self.features), jnp.float32)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        # The policy "dots" does not keep products with a batch axis.
        y = matmul(x, kernel) if self.kept else matmul(x[None], kernel[None])[0]
        if self.use_bias:
            y += self.param("bias", self.bias_init or default, (self.features,), jnp.float32).astype(self.dtype)
        return y


def mlp(x: jax.Array, widths: Sequence[int], dtype: Dtype, name: str) -> jax.Array:
    """Linear layers on the last axis of x, with ReLUs between them; in the calling module as `name`_0, `name`_1 ..."""
    for i, width in enumerate(widths):
        x = nn.relu(x) if i else x
        x = Dense(width, dtype=dtype, name=f"{name}_{i}")(x)
    return x


class Weights(nn.Module):
    """The parameters of a linear layer or a convolution, (kernel, bias or None), for products other than its own."""

    shape: tuple[int, ...]
    use_bias: bool = True
    kernel_init: Initializer | None = None
    dtype: Dtype = jnp.float32
    bias_init: Initializer | None = None

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array | None]:
        default = fan_in_uniform(math.prod(self.shape[:-1]))
        kernel = self.param("kernel", self.kernel_init or default, self.shape, jnp.float32).astype(self.dtype)
        if not self.use_bias:
            return kernel, None
        bias_init = self.bias_init or default
        return kernel, self.param("bias", bias_init, self.shape[-1:], jnp.float32).astype(self.dtype)


class Conv(nn.Module):
    """2-D convolution (N, H, W, C) -> (N, H', W', features) with PyTorch's arithmetic: `padding` zeros on every side.

    The kernel is (k, k, C, features). Without initialisers given, PyTorch's default.
    """

    features: int
    kernel_size: int = 1
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    use_bias: bool = True
    kernel_init: Initializer | None = None
    bias_init: Initializer | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        default = fan_in_uniform(math.prod(shape[:-1]))
        kernel = self.param("kernel", self.kernel_init or default, shape, jnp.float32)
        y = conv2d(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, self.padding, self.dilation)
        if self.use_bias:
            y += self.param("bias", self.bias_init or default, (self.features,), jnp.float32).astype(self.dtype)
        return y


class LayerNorm(nn.LayerNorm):
    """Layer normalisation with PyTorch's epsilon. Two-pass variance: the one-pass form cancels catastrophically."""

    epsilon: float = 1e-5
    use_fast_variance: bool = False


class GroupNorm(nn.Module):
    """Group normalisation of (N, ..., C) with PyTorch's epsilon, each group over its channels and all positions.

    Means are taken along one axis after the other: in one sum over a map whose cells are all alike, as padded frames
    have them, every rounding would go the same way.
    """

    num_groups: int = 32
    epsilon: float = 1e-5
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (features,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (features,), jnp.float32)

        whole = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        groups = whole.reshape(*x.shape[:-1], self.num_groups, -1)  # in this shape XLA keeps no differences from means
        ones = (1,) * (x.ndim - 2)

        def mean(x: jax.Array) -> jax.Array:
            while x.ndim > 3:
                x = jnp.mean(x, axis=1)
            return jnp.mean(x, axis=-1)

        average = mean(groups)  # (N, groups)
        variance = mean(jnp.square(groups - average.reshape(len(x), *ones, -1, 1)))
        average, variance = (
            jnp.repeat(z, groups.shape[-1], axis=-1).reshape(len(x), *ones, features) for z in (average, variance)
        )
        normalised = (whole - average) * (jax.lax.rsqrt(variance + self.epsilon) * scale) + bias
        return normalised.astype(self.dtype or whole.dtype)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, as PyTorch does it; collection `batch_stats`: `mean`, `var`.

    In training the batch's own statistics normalise (with the biased variance) and the running ones move towards them
    by `momentum` (with the *unbiased* variance, which flax's layer lacks). Otherwise the running ones normalise.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    scale_init: Initializer = nn.initializers.ones
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        features = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (features,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (features,), jnp.float32)
        scale = self.param("scale", self.scale_init, (features,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (features,), jnp.float32)

        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if train:
            axes = tuple(range(x.ndim - 1))
            mean, var = jnp.mean(x, axes), jnp.var(x, axes)
            if not self.is_initializing():
                count = x.size // features
                running_mean.value += self.momentum * (mean - running_mean.value)
                running_var.value += self.momentum * (var * (count / max(count - 1, 1)) - running_var.value)
        else:
            mean, var = running_mean.value, running_var.value
        return ((x - mean) * (jax.lax.rsqrt(var + self.epsilon) * scale) + bias).astype(self.dtype)


def max_pool(x: jax.Array, size: int, stride: int, padding: int = 0) -> jax.Array:
    """Maxima of windows of `size` x `size` in (N, H, W, C); equal values pass the gradient to the first, as in PyTorch.

    As comparisons of shifted maps: XLA's own window reduction has a gradient that takes several times as long.
    """
    edges = (padding, padding)
    x = jnp.pad(x, ((0, 0), edges, edges, (0, 0)), constant_values=-jnp.inf)
    for axis in (2, 1):
        count = (x.shape[axis] - size) // stride + 1
        ends = [start + (count - 1) * stride + 1 for start in range(size)]
        shifted = [jax.lax.slice_in_dim(x, start, end, stride, axis) for start, end in enumerate(ends)]
        x = functools.reduce(_larger, shifted)
    return x


def _larger(first: jax.Array, second: jax.Array) -> jax.Array:
    return jnp.where((second > first) | (second != second), second, first)


def relu(x: jax.Array) -> jax.Array:
    """max(x, 0), with gradient 0 at 0. Not as a maximum: XLA's CPU backend would join whole chains of matrix products
    with it into one library call, which takes 20 times as long for a few rows."""
    return jnp.where(x <= 0, 0, x)


def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU, x Phi(x), through erf: XLA computes it faster than the erfc of `flax.linen.gelu`."""
    return x * 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))


class DropPath(nn.Module):
    """Stochastic depth: zeroes a residual branch (N, ...) of whole samples with some probability, scales the rest."""

    @nn.compact
    def __call__(self, x: jax.Array, rate: jax.Array | float | None) -> jax.Array:
        """`rate` is the probability, which a scan over blocks traces, or None where nothing drops."""
        if rate is None:
            return x
        keep = jnp.asarray(1 - rate, x.dtype)
        kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - rate, (x.shape[0],) + (1,) * (x.ndim - 1))
        return jnp.where(kept, x / keep, 0)


class FeedForward(nn.Module):
    """Transformer feed-forward (..., C) -> (..., C): linear1, activation (exact GELU), dropout, linear2."""

    hidden: int
    dropout: float = 0.0
    kernel_init: Initializer | None = None
    dtype: Dtype = jnp.float32
    activation: Callable[[jax.Array], jax.Array] = gelu

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool = True) -> jax.Array:
        width = x.shape[-1]
        first = Weights((width, self.hidden), kernel_init=self.kernel_init, dtype=self.dtype, name="linear1")()
        second = Weights((self.hidden, width), kernel_init=self.kernel_init, dtype=self.dtype, name="linear2")()
        seed = Dropout(self.dropout).seed(deterministic)
        return feed_forward((first, second), x.astype(self.dtype), self.activation, self.dropout, seed)


def feed_forward(
    weights: tuple, x: jax.Array, activation: Callable[[jax.Array], jax.Array], rate: float = 0.0, seed=None
) -> jax.Array:
    """The second of `weights`, two pairs (kernel, bias), on dropout of the activation of the first on x (..., C).

    rate, seed: of the dropout, where there is one (see `dropout.drop`).
    """
    apply = functools.partial(_feed_forward, activation, rate)

    def frame_by_frame(weights, x, seed):
        seeds = None if seed is None else jax.vmap(fold_in, (None, 0))(seed, jnp.arange(len(x), dtype=jnp.uint32))
        return one_by_one(apply, weights, x, seeds)

    if x.ndim < 3:
        return apply(weights, x, seed)
    # On a CPU the hidden values of all frames would come from fresh memory, which takes as long as the products.
    return remat.product(by_platform(weights, x, seed, cpu=frame_by_frame, default=apply))


def _feed_forward(activation: Callable, rate: float, weights, x: jax.Array, seed: jax.Array | None) -> jax.Array:
    (first, first_bias), (second, second_bias) = weights
    hidden = activation(matmul(x, first) + first_bias)
    if seed is not None:
        hidden = drop(hidden, rate, seed)
    return matmul(hidden, second) + second_bias
