"""Settings for every test: parsed flags (Grain's worker processes ask for them) and a quiet, deterministic CPU."""

import os

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
