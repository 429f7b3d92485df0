"""Settings for every test: parsed flags (Grain's worker processes ask for them), the CPU, a cache of programs."""

import atexit
import ctypes
import gc
import importlib.metadata
import os
import shutil
import sys
import tempfile

# Programs that several tests compile are compiled once, also by the commands that tests start.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="avs_jax_compiled_")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The older of two ways to the same machine code takes two thirds of the time; later jaxlibs have the newer one alone.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"

from absl import flags

if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()

import jax
import pytest

from avs_jax.train import demo_data
from tests.integration import tiny


@pytest.fixture(autouse=True, scope="module")
def give_back_memory():
    """Compiled programs, and what the allocator keeps of them, are no use to the next module and may fill memory."""
    yield
    jax.clear_caches()
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture
def tiny_config():
    """See `tests.integration.tiny`; unlocked."""
    return tiny.get_config().unlock()


@pytest.fixture(scope="session")
def records(tmp_path_factory):
    """The folder of that configuration's synthetic records."""
    config = tiny.get_config()
    config.data.records = str(tmp_path_factory.mktemp("records"))
    demo_data.ensure_records(config)
    return config.data.records
