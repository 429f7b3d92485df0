"""Settings for the tests of whole runs, in this process and in those that they start."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """These programs are small and run a few times: compiling them is what takes the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", False)
