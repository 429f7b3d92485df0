"""Settings for the tests of training."""

from tests.quick import quick_compilation  # noqa: F401
