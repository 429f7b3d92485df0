"""Settings for the tests of layers."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="package")
def quick_compilation():
    """These functions are small and run once: compiling them is what takes time."""
    with jax.disable_most_optimizations(True):
        yield
