"""VGGish (Hershey et al., ICASSP 2017), the audio encoder: log-mel patches to embeddings."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from avs_jax.layers.blocks import Conv, Dense, max_pool, relu

CONVS_PER_STAGE = (1, 1, 2, 2)  # each stage ends in a 2x2 max pool
INIT = {"kernel_init": nn.initializers.he_normal(), "bias_init": nn.initializers.zeros}
FLAT_POSITIONS = 6 * 4  # of a 96 x 64 patch after four pools


class VGGish(nn.Module):
    """Log-mel (N, 96, 64) -> embedding (N, embedding_dim) >= 0: the last ReLU stays, no PCA and no quantisation follow.

    The feature map is flattened in (time, mel, channel) order, as the published weights expect. Fresh kernels are He
    normal and biases 0, so that a network without any normalisation learns from scratch (with PyTorch's defaults every
    layer shrinks the signal, and after nine of them all sounds look alike). Pooled maps are sown as `pool0` to `pool3`.
    With `hidden_dim` 0 there are no fully connected layers: the last pooled map (N, 6, 4, widths[3]) is the result.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512)
    hidden_dim: int = 4096
    embedding_dim: int = 128
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, log_mel: jax.Array) -> jax.Array:
        x = log_mel[..., None]
        for stage, (width, convs) in enumerate(zip(self.widths, CONVS_PER_STAGE, strict=True)):
            for conv in range(convs):
                x = relu(Conv(width, 3, padding=1, name=f"conv{stage}_{conv}", dtype=self.dtype, **INIT)(x))
            x = max_pool(x, 2, 2)
            self.sow("intermediates", f"pool{stage}", x)
        if not self.hidden_dim:
            return x
        x = x.reshape(x.shape[0], -1)
        for layer, features in enumerate((self.hidden_dim, self.hidden_dim, self.embedding_dim)):
            x = relu(Dense(features, name=f"fc{layer}", dtype=self.dtype, **INIT)(x))
        return x
