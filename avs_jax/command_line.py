"""What the project's commands share: flags that report a mistake in one line, and quiet libraries."""

from __future__ import annotations

import logging
import sys

from absl import flags


def parse(argv: list[str]) -> list[str]:
    """Parses the flags, for `app.run(flags_parser=parse)`; exits with 2 where one is unknown or has a wrong value."""
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, TypeError, ValueError, OSError) as error:  # config_flags raises the latter
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def set_up_logging() -> None:
    """Shows our messages as they are, and of the libraries only warnings.

    What fails in Orbax's threads is raised for us to report: the tracebacks that are logged of it are left out. So is
    its warning of steps that have not been evaluated.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    for noisy in ("absl", "orbax", "jax", "grain"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for handler in logging.root.handlers:
        handler.addFilter(lambda record: not _is_noise(record))
    sys.unraisablehook = _show_unraisable


def _show_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    # The writes that a failed save has left behind find nobody who waits for them.
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _is_noise(record: logging.LogRecord) -> bool:
    if "orbax" in record.pathname and "did not provide metrics" in str(record.msg):
        return True
    of_a_thread = "orbax" in record.pathname or record.name in ("asyncio", "concurrent.futures")
    return bool(record.exc_info) and of_a_thread
