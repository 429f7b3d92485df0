"""Mask2Former's pixel decoder (Cheng et al., CVPR 2022, section 3.2): deformable attention, then one step of an FPN."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from avs_jax.layers import remat, sampling, stack
from avs_jax.layers.blocks import Conv, Dense, GroupNorm, xavier_uniform
from avs_jax.layers.deformable import DeformableEncoderLayer
from avs_jax.layers.levels import join_levels, split_levels
from avs_jax.layers.resize import resize_bilinear

NUM_LEVELS = 3  # that deformable attention joins: 1/32, 1/16, 1/8
_xavier = xavier_uniform()
_zeros = nn.initializers.zeros
_fan_in = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")


class PixelDecoder(nn.Module):
    """A backbone's four maps -> mask features at 1/4, and three maps for the decoder's attention.

    `remat` says what layers keep for the backward pass (see `layers.remat`).
    The tokens after each layer are sown as `encoder_0`, `encoder_1`, ...
    """

    features: int = 256
    num_layers: int = 6
    num_heads: int = 8
    num_points: int = 4
    ffn_dim: int = 1024
    form: sampling.Form = "auto"
    remat: str = "none"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array]) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """From maps (N, H / s, W / s, C_s), s = 4, 8, 16, 32.

        Returns:
          The mask features (N, H / 4, W / 4, D) and the maps (N, H / s, W / s, D), s = 32, 16, 8: the coarsest first.
        """
        finest, *others = maps
        levels = [self._project(i, feature) for i, feature in enumerate(reversed(others))]
        levels = self._encode(levels)

        x = Dense(self.features, False, _fan_in, dtype=self.dtype, name="lateral_conv")(finest)
        x = GroupNorm(dtype=self.dtype, name="lateral_norm")(x)
        x = x + resize_bilinear(levels[-1], finest.shape[1:3])
        x = Conv(
            self.features, 3, padding=1, use_bias=False, kernel_init=_fan_in, dtype=self.dtype, name="output_conv"
        )(x)
        x = nn.relu(GroupNorm(dtype=self.dtype, name="output_norm")(x))
        mask_features = self._dense(_fan_in, "mask_features")(x)
        return mask_features, tuple(levels)

    def _project(self, level: int, feature: jax.Array) -> jax.Array:
        """Brings a map to D channels."""
        feature = self._dense(_xavier, f"input_conv_{level}")(feature)
        return GroupNorm(dtype=self.dtype, name=f"input_norm_{level}")(feature)

    def _encode(self, levels: Sequence[jax.Array]) -> list[jax.Array]:
        """Deformable self-attention over the cells of all maps (N, h_l, w_l, D) together."""
        level_embed = self.param("level_embed", nn.initializers.normal(1.0), (NUM_LEVELS, self.features), jnp.float32)
        tokens, position, centres, shapes = join_levels(levels, level_embed, normalize=True)

        make = remat.block(DeformableEncoderLayer, self.remat, static_argnums=(4, 5), in_scan=True)
        layer = make(
            self.num_heads, self.num_points, self.ffn_dim, 0.0, _xavier, self.form, self.dtype, nn.relu, name="layers"
        )
        tokens, each = stack.run(layer, self.num_layers, tokens, position, centres, shapes, True)
        stack.sow(self, "encoder", each)
        return split_levels(tokens, shapes)

    def _dense(self, kernel_init: nn.initializers.Initializer, name: str) -> Dense:
        return Dense(self.features, kernel_init=kernel_init, bias_init=_zeros, dtype=self.dtype, name=name)
