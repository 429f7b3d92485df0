"""Settings for the tests of layers."""

from tests.quick import quick_compilation  # noqa: F401
