"""Arrays and their types from the parts of numpy's own pickles."""

import numpy as np
import pytest

from data_pipeline.numpy_pickle import GLOBALS, Array, Type, natural, naturals
from data_pipeline.pickle_literals import BadPickle

ARRAYS = [
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.asfortranarray(np.arange(24, dtype=np.int16).reshape(2, 3, 4)),
    np.array([1.5, -2], ">f8"),
    np.array([[True], [False]]),
    np.array(3 - 1j),
    np.array([b"a", b"bcd"]),
    np.array(["a", "bcd", "é"]),
    np.array(["a", "bcd"], ">U3"),
    np.zeros((0, 4), np.uint64),
]


def made(dtype):
    """Our stand-in of a dtype, by what numpy says a pickle calls and gives as the state."""
    _, arguments, state = dtype.__reduce__()
    found = Type(*arguments)
    found.build(state)
    return found


@pytest.mark.parametrize("expected", ARRAYS, ids=lambda array: f"{array.dtype}{array.shape}")
def test_arrays_are_numpys(expected):
    version, shape, dtype, fortran, data = expected.__reduce__()[2]
    assert made(dtype).dtype == expected.dtype
    array = Array()
    array.build((version, shape, made(dtype), fortran, data))
    assert array.array.dtype == expected.dtype.newbyteorder("=") and array.array.dtype.isnative
    assert array.array.shape == expected.shape
    np.testing.assert_array_equal(array.array, expected)


def test_content_as_text_is_python_2s():
    data = np.array([-1.0, 3e5], np.float32)
    array = Array()
    array.build((1, (2,), made(data.dtype), False, data.tobytes().decode("latin1")))
    np.testing.assert_array_equal(array.array, data)


PERMUTED = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(1, 2, 0)


@pytest.mark.parametrize("expected", [*ARRAYS, PERMUTED], ids=lambda array: f"{array.dtype}{array.shape}")
def test_arrays_of_protocol_5_are_numpys(expected):
    function, (buffer, dtype, *rest) = expected.__reduce_ex__(5)
    found = GLOBALS[function.__module__, function.__name__].call(bytes(buffer), made(dtype), *rest)
    assert found.shape == expected.shape and found.dtype.isnative
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("axes", [None, (0, 0, 1), (0, 1), (0, 1, 3), (0, 1, -1), (0, 1, True), "012"])
def test_axes_that_are_no_permutation_are_refused(axes):
    with pytest.raises(BadPickle):
        GLOBALS["numpy._core.numeric", "_frombuffer"].call(bytes(24), made(np.dtype("u1")), (2, 3, 4), "K", axes)


@pytest.mark.parametrize("core", ["core", "_core"])
def test_scalars_and_both_names_of_numpys_core(core):
    function, (dtype, data) = np.int32(-5).__reduce__()
    scalar = GLOBALS[f"numpy.{core}.multiarray", function.__name__].call(made(dtype), data)
    assert scalar == -5 and scalar.dtype == np.int32
    assert {(f"numpy.{core}.multiarray", "_reconstruct"), (f"numpy.{core}.numeric", "_frombuffer")} <= set(GLOBALS)


@pytest.mark.parametrize("name", ["O", "O8", "M8", "m8", "V4", "f4,i4", "float32" * 5, b"f4", None, 4])
def test_other_types_are_refused(name):
    with pytest.raises(BadPickle, match="closed list|something else than a name"):
        Type(name, False, True)


@pytest.mark.parametrize(
    "state",
    [
        (1, (2,), None, False, bytes(8)),
        (1, (2,), np.dtype("f4"), False, bytes(8)),  # numpy's own, which a pickle cannot hold
        (1, (2,), made(np.dtype("f4")), False, [0] * 8),
        (1, (-2,), made(np.dtype("f4")), False, bytes(8)),
        (1, [2], made(np.dtype("f4")), False, bytes(8)),
        (1, (1,) * 65, made(np.dtype("f4")), False, bytes(4)),
    ],
    ids=("no type", "numpy's type", "numbers", "negative", "list", "65 axes"),
)
def test_arrays_without_type_content_or_shape_are_refused(state):
    with pytest.raises(BadPickle):
        Array().build(state)


def test_content_of_another_size_is_refused():
    with pytest.raises(ValueError, match="reshape"):
        Array().build((1, (3,), made(np.dtype("f4")), False, bytes(8)))


def test_sizes_are_natural_numbers():
    assert natural(0) == 0 and naturals((3, 2**70)) == (3, 2**70) and naturals(()) == ()
    for wrong in (-1, True, 1.0, "1", None):
        with pytest.raises(BadPickle):
            natural(wrong)
        with pytest.raises(BadPickle):
            naturals((1, wrong))
