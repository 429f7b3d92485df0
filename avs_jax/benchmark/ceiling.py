"""What the machine can do, measured in the same run: the ceilings that programs are compared with."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from avs_jax.benchmark import timing


@dataclasses.dataclass(frozen=True)
class Ceiling:
    """The best of several runs: FLOP/s of a large square matrix product, bytes/s read and written by an addition."""

    flops_per_second: float
    bytes_per_second: float

    def floor_seconds(self, flops: float, moved: float) -> float:
        """The least time for that many FLOPs, done while that many bytes move."""
        return max(flops / self.flops_per_second, moved / self.bytes_per_second)


def measure(dtype: str, runs: int = 5) -> Ceiling:
    """Measures products of `dtype`, and the memory."""
    size, length = (2048, 2**26) if jax.default_backend() == "cpu" else (8192, 2**29)
    matrix = jnp.full((size, size), 1 / size, dtype)
    product = jax.jit(lambda a: a @ a)
    array = jnp.zeros(length, jnp.float32)
    add = jax.jit(lambda x: x + 1)
    return Ceiling(
        flops_per_second=2 * size**3 / _best(lambda: product(matrix).block_until_ready(), runs),
        bytes_per_second=2 * array.nbytes / _best(lambda: add(array).block_until_ready(), runs),
    )


def _best(run, runs: int) -> float:
    run()
    return min(timing.once(run).wall for _ in range(runs))
