"""Settings for the tests of the benchmark."""

from tests.quick import quick_compilation  # noqa: F401
