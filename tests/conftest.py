"""Settings for every test: parsed flags (Grain's worker processes ask for them), the CPU, a cache of programs."""

import atexit
import os
import shutil
import tempfile

# Programs that several tests compile are compiled once, also by the commands that tests start.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="avs_jax_compiled_")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from absl import flags

if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()

import pytest

from tests.integration import tiny


@pytest.fixture
def tiny_config():
    """See `tests.integration.tiny`; unlocked."""
    return tiny.get_config().unlock()
