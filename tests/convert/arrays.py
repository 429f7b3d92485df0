"""Comparing state dicts."""

import numpy as np


def assert_same(found, expected):
    """The same names, and arrays of the same types and values."""
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)
