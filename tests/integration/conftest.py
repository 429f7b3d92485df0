"""These programs, also those of the commands that are started, are small and run a few times."""

from tests.quick import quick_compilation  # noqa: F401
