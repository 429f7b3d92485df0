"""ResNet-50 (He et al., CVPR 2016) in the form of torchvision's weights: the stride sits in the 3x3 convolution.

AVSegFormer's own class holds a second copy of the last two stages that no published configuration runs; it is not
built here (`avs_jax.convert` keeps its arrays).
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from avs_jax.layers import remat
from avs_jax.layers.blocks import BatchNorm, Conv, max_pool, relu

DEPTHS = (3, 4, 6, 3)
WIDTHS = (64, 128, 256, 512)
STRIDES = (1, 2, 2, 2)
EXPANSION = 4  # a bottleneck's output channels over its planes

_fan_out_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def architecture(config) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Blocks and planes of the four stages, those of ResNet-50 where the configuration leaves them empty."""
    return tuple(config.depths) or DEPTHS, tuple(config.widths) or WIDTHS


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions with a shortcut: (N, h, w, C) -> (N, h / stride, w / stride, 4 * planes)."""

    planes: int
    stride: int
    project: bool  # the shortcut is a 1x1 convolution: the first block of every stage
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        planes, dtype = self.planes, self.dtype
        y = _conv(planes, 1, name="conv1", dtype=dtype)(x)
        y = relu(BatchNorm(name="bn1", dtype=dtype)(y, train))
        y = _conv(planes, 3, stride=self.stride, name="conv2", dtype=dtype)(y)
        y = relu(BatchNorm(name="bn2", dtype=dtype)(y, train))
        y = _conv(EXPANSION * planes, 1, name="conv3", dtype=dtype)(y)
        y = BatchNorm(name="bn3", dtype=dtype)(y, train)
        if self.project:
            x = _conv(EXPANSION * planes, 1, stride=self.stride, name="shortcut_conv", dtype=dtype)(x)
            x = BatchNorm(name="shortcut_bn", dtype=dtype)(x, train)
        return relu(x + y)


class ResNet(nn.Module):
    """Frames (N, H, W, 3) -> four maps (N, H/4, W/4, 4 * widths[0]) ... (N, H/32, W/32, 4 * widths[3])."""

    depths: tuple[int, ...] = DEPTHS
    widths: tuple[int, ...] = WIDTHS
    remat: str = "none"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        x = _conv(self.widths[0], 7, stride=2, name="conv1", dtype=self.dtype)(x)
        x = relu(BatchNorm(name="bn1", dtype=self.dtype)(x, train))
        x = max_pool(x, 3, 2, padding=1)
        self.sow("intermediates", "max_pool", x)
        block_type, maps = remat.block(Bottleneck, self.remat, static_argnums=(2,)), []
        for stage, (depth, planes, stride) in enumerate(zip(self.depths, self.widths, STRIDES, strict=True), 1):
            for block in range(depth):
                x = block_type(
                    planes,
                    stride if block == 0 else 1,
                    project=block == 0,
                    name=f"stage{stage}_block{block}",
                    dtype=self.dtype,
                )(x, train)
            maps.append(x)
        return tuple(maps)


def _conv(features: int, size: int, **options) -> Conv:
    return Conv(features, size, padding=size // 2, use_bias=False, kernel_init=_fan_out_normal, **options)
