"""Beam is an extra that holds protobuf back: its tests belong to an environment of its own, which .ci/run makes."""

import importlib.util

collect_ignore = [] if importlib.util.find_spec("apache_beam") else ["test_beam.py"]
