"""Settings for the tests of the benchmark."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """These programs are small and run once: compiling them is what takes the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
