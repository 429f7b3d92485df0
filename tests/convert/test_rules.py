"""The engine of the tables: layouts, stacks, dead entries, half precision, gradients, and one error for everything."""

import ml_dtypes
import numpy as np
import pytest

from avs_jax.convert import rules
from avs_jax.convert.rules import CONV, LINEAR, POINTWISE, ConversionError, Dead, Rule
from tests.convert.arrays import assert_same

TABLE = [
    Rule("conv.weight", (4, 3, 2, 5), ("params/conv/kernel",), CONV),
    Rule("point.weight", (4, 3, 1, 1), ("params/point/kernel",), POINTWISE),
    Rule("fc.weight", (2, 3), ("params/fc/kernel",), LINEAR),
    Rule("fc.bias", (2,), ("params/fc/bias",)),
    Rule("qk.weight", (4, 3), ("params/query", "params/key"), rules.stacked_linears(2)),
    Rule("qk.bias", (4,), ("params/query_bias", "params/key_bias"), rules.stacked_vectors(2)),
    Rule("blocks.0.weight", (3,), ("params/stage/scale",), block=0),
    Rule("blocks.1.weight", (3,), ("params/stage/scale",), block=1),
    Rule("bn.running_mean", (3,), ("batch_stats/bn/mean",)),
    Dead("bn.num_batches_tracked", (), "batch_stats", "int64", required=False),
    Dead("unused.weight", (2, 2)),
    Dead("index", (2,), dtype="int64", required=False, value=lambda: np.array([5, 6])),
]


def state_dict(seed=0):
    rng = np.random.default_rng(seed)
    floats = {e.source: rng.standard_normal(e.shape, np.float32) for e in TABLE if getattr(e, "dtype", "") != "int64"}
    return floats | {"bn.num_batches_tracked": np.array(7), "index": np.array([5, 6])}


def test_every_layout_lies_where_our_modules_look():
    file = state_dict()
    variables = rules.from_torch(file, TABLE)
    params = variables["params"]
    np.testing.assert_array_equal(params["conv"]["kernel"][1, 4, 2, 3], file["conv.weight"][3, 2, 1, 4])
    np.testing.assert_array_equal(params["point"]["kernel"][2, 3], file["point.weight"][3, 2, 0, 0])
    np.testing.assert_array_equal(params["fc"]["kernel"], file["fc.weight"].T)
    np.testing.assert_array_equal(params["query"], file["qk.weight"][:2].T)
    np.testing.assert_array_equal(params["key"], file["qk.weight"][2:].T)
    np.testing.assert_array_equal(params["key_bias"], file["qk.bias"][2:])
    np.testing.assert_array_equal(variables["batch_stats"]["bn"]["mean"], file["bn.running_mean"])


def test_blocks_are_stacked_by_their_number_not_by_the_table_s_order():
    file, reverse = state_dict(), TABLE[::-1]
    expected = np.stack([file["blocks.0.weight"], file["blocks.1.weight"]])
    for table in (TABLE, reverse):
        np.testing.assert_array_equal(rules.from_torch(file, table)["params"]["stage"]["scale"], expected)
    assert_same(rules.to_torch(rules.from_torch(file, reverse), reverse), file)


def test_a_round_trip_is_bit_for_bit():
    file = state_dict()
    assert_same(rules.to_torch(rules.from_torch(file, TABLE), TABLE), file)


def test_shapes_are_those_of_the_variables():
    variables = rules.from_torch(state_dict(), TABLE)
    own = {path: array.shape for path, array in rules.flat(variables).items() if not path.startswith("dead/")}
    assert rules.shapes(TABLE) == own
    assert own["params/stage/scale"] == (2, 3)


def test_dead_entries_are_kept_apart_and_come_back():
    file = state_dict()
    variables = rules.from_torch(file, TABLE)
    assert variables["dead"].keys() == {"bn.num_batches_tracked", "unused.weight", "index"}
    assert not any("unused" in path for path in rules.flat(variables) if not path.startswith("dead/"))
    back = rules.to_torch(variables, TABLE)
    np.testing.assert_array_equal(back["unused.weight"], file["unused.weight"])


def test_dead_entries_that_nobody_kept_are_zeros_or_what_pytorch_needs():
    variables = rules.from_torch(state_dict(), TABLE)
    back = rules.to_torch({name: variables[name] for name in ("params", "batch_stats")}, TABLE)
    np.testing.assert_array_equal(back["unused.weight"], np.zeros((2, 2), np.float32))
    np.testing.assert_array_equal(back["index"], [5, 6])
    assert back["bn.num_batches_tracked"] == 0
    assert (back["index"].dtype, back["bn.num_batches_tracked"].dtype) == (np.int64, np.int64)


def test_a_dead_entry_may_be_absent_only_where_the_table_says_so():
    file = state_dict()
    del file["bn.num_batches_tracked"], file["index"]
    assert rules.from_torch(file, TABLE)["dead"].keys() == {"unused.weight"}
    del file["unused.weight"]
    with pytest.raises(ConversionError, match=r"missing: unused.weight \(2, 2\)"):
        rules.from_torch(file, TABLE)


@pytest.mark.parametrize("half", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_becomes_float32_of_the_same_values(half):
    file = state_dict()
    halves = {name: array.astype(half) if array.dtype == np.float32 else array for name, array in file.items()}
    variables = rules.from_torch(halves, TABLE)
    assert variables["params"]["fc"]["kernel"].dtype == variables["dead"]["unused.weight"].dtype == np.float32
    np.testing.assert_array_equal(variables["params"]["fc"]["kernel"], np.float32(halves["fc.weight"]).T)
    assert variables["dead"]["index"].dtype == np.int64


def test_doubles_stay_doubles():
    file = {name: array.astype(np.float64) for name, array in state_dict().items()}
    assert rules.from_torch(file, TABLE)["params"]["fc"]["kernel"].dtype == np.float64


def test_gradients_go_out_under_pytorch_s_names_without_statistics():
    weights, gradients = state_dict(), state_dict(seed=1)
    tree = {"params": rules.from_torch(gradients, TABLE)["params"]}
    found = rules.to_torch(tree, TABLE)
    assert found.keys() == weights.keys() - {"bn.running_mean", "bn.num_batches_tracked"}
    for name in found.keys() - {"unused.weight", "index"}:
        np.testing.assert_array_equal(found[name], gradients[name])
    np.testing.assert_array_equal(found["unused.weight"], np.zeros((2, 2)))  # what is never used has no gradient


def test_everything_that_does_not_fit_is_in_one_error():
    file = state_dict()
    del file["fc.bias"], file["blocks.1.weight"]
    file |= {
        "fc.weight": np.zeros((3, 2)),
        "unused.weight": np.zeros(4),
        "extra": np.zeros(1),
        "more.extra": np.zeros(()),
    }
    with pytest.raises(ConversionError) as error:
        rules.from_torch(file, TABLE)
    first, *lines = str(error.value).splitlines()
    assert "the state dict does not fit config.model (2 missing, 2 left over, 2 of a wrong shape)" in first
    assert sorted(lines) == [
        "  left over: extra (1,)",
        "  left over: more.extra ()",
        "  missing: blocks.1.weight (3,)",
        "  missing: fc.bias (2,)",
        "  of a wrong shape: fc.weight (3, 2), expected (2, 3)",
        "  of a wrong shape: unused.weight (4,), expected (2, 2)",
    ]


def test_on_the_way_out_the_error_names_our_paths():
    variables = rules.from_torch(state_dict(), TABLE)
    params = variables["params"]
    del params["query"]
    params["fc"]["kernel"] = np.zeros((2, 3))
    params["stage"]["scale"] = np.zeros((3, 3))
    params["new"] = np.zeros(1)
    with pytest.raises(ConversionError) as error:
        rules.to_torch(variables, TABLE)
    first, *lines = str(error.value).splitlines()
    assert "tree of variables" in first
    assert sorted(lines) == [
        "  left over: params/new (1,)",
        "  missing: params/query (3, 2)",
        "  of a wrong shape: params/fc/kernel (2, 3), expected (3, 2)",
        "  of a wrong shape: params/stage/scale (3, 3), expected (2, 3)",
    ]


def test_our_own_names_and_back():
    variables = rules.from_torch(state_dict(), TABLE)
    arrays = rules.flat(variables)
    assert rules.is_flat(arrays)
    assert not rules.is_flat(state_dict())
    assert_same(rules.flat(rules.unflat(arrays)), arrays)
