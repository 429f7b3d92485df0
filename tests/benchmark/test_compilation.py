"""Compiling twice: the first time anew, the second time out of the cache."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from avs_jax.benchmark.compilation import compile_twice
from avs_jax.benchmark.programs import Program


@pytest.fixture
def events(tmp_path):
    """What JAX's cache of programs, at first empty, says of itself."""
    changed = {"jax_compilation_cache_dir": str(tmp_path), "jax_persistent_cache_min_compile_time_secs": 0.0}
    before = {name: getattr(jax.config, name) for name in changed}
    found = []

    def listen(event: str, **_) -> None:
        found.append(event.removeprefix("/jax/compilation_cache/"))

    jax.monitoring.register_event_listener(listen)
    compilation_cache.reset_cache()
    for name, value in changed.items():
        jax.config.update(name, value)
    yield found
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    jax.monitoring.unregister_event_listener(listen)


def test_the_second_time_it_comes_out_of_the_cache(events):
    x = np.ones((8, 8), np.float32)
    compiled, made = compile_twice(Program(lambda x: jnp.sin(x) @ x, (x,)))
    assert [event for event in events if event in ("cache_misses", "cache_hits")] == ["cache_misses", "cache_hits"]
    assert made.cold_seconds > 0 and made.warm_seconds > 0
    assert made.peak_bytes >= 2 * x.nbytes
    np.testing.assert_allclose(compiled(x), np.sin(x) @ x, rtol=1e-6)
