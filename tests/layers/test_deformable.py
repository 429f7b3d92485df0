"""Deformable attention against the published module: three cases, values and gradients."""

from __future__ import annotations

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax.layers.deformable import MultiScaleDeformableAttention, star_offsets
from avs_jax.layers.position import cell_centres

SHAPES = ((12, 20), (6, 10), (3, 5))
FORWARD = 2e-4
GRADIENT = 2e-3
NAMES = ("sampling_offsets", "attention_weights", "value_proj", "output_proj")


@pytest.fixture(scope="module")
def case():
    return golden.load("avsegformer/msdeformattn")


def attend(state, query, tokens, reference, valid=None):
    params = {
        name: {"kernel": jnp.transpose(state[f"{name}.weight"]), "bias": jnp.asarray(state[f"{name}.bias"])}
        for name in NAMES
    }
    module = MultiScaleDeformableAttention()
    return module.apply({"params": params}, query, reference, tokens, SHAPES, valid)


@jax.jit
def attend_with_gradients(state, query, tokens, reference, valid, cotangent):
    output, backward = jax.vjp(lambda *a: attend(*a, reference, valid), state, query, tokens)
    return output, backward(cotangent)


def test_self_attention_around_cell_centres(case):
    inputs = case.inputs
    reference = jnp.broadcast_to(cell_centres(SHAPES)[None, :, None], (2, 315, 3, 2))
    output, (state, query, tokens) = attend_with_gradients(
        case.state_dict, inputs["query"], inputs["input_flatten"], reference, None, inputs["cotangent"]
    )
    assert case.check("reference_points_a", reference).max_abs < 1e-6
    assert case.check("output_a", output).max_abs < FORWARD
    assert case.check("grad_query_a", query).rel_l2 < GRADIENT
    assert case.check("grad_input_a", tokens).rel_l2 < GRADIENT
    for name in ("sampling_offsets.weight", "attention_weights.bias", "value_proj.weight"):
        assert case.check(f"grad_{name}", state[name]).rel_l2 < GRADIENT, name


def test_points_anywhere_and_padded_tokens(case):
    inputs = case.inputs
    valid = inputs["padding_mask_b"].reshape(2, 315) == 0
    output, (_, query, tokens) = attend_with_gradients(
        case.state_dict,
        inputs["query_b"],
        inputs["input_flatten"],
        inputs["reference_points_b"],
        valid,
        inputs["cotangent_b"],
    )
    assert case.check("output_b", output).max_abs < FORWARD
    assert case.check("grad_query_b", query).rel_l2 < GRADIENT
    assert case.check("grad_input_b", tokens).rel_l2 < GRADIENT
    assert not np.any(np.asarray(tokens)[~valid])


def test_reference_boxes(case):
    boxes = np.concatenate([case.inputs["reference_points_b"], case.inputs["reference_wh_c"]], axis=-1)
    output = jax.jit(attend)(case.state_dict, case.inputs["query_b"], case.inputs["input_flatten"], boxes)
    assert case.check("output_c", output).max_abs < FORWARD


def test_fresh_offsets_are_the_published_star(case):
    assert case.check("initial_sampling_offsets_bias", star_offsets(8, 3, 4).reshape(-1)).max_abs < 1e-5


def fresh(module):
    """A small module's parameters and inputs: 20 queries over 315 tokens of 64 channels."""
    query, tokens, reference = (
        jax.random.normal(jax.random.key(i), shape)
        for i, shape in enumerate(((2, 20, 64), (2, 315, 64), (2, 20, 3, 2)))
    )
    arguments = query, 0.5 + 0.3 * reference, tokens
    return jax.jit(lambda: module.init(jax.random.key(0), *arguments, SHAPES)["params"])(), arguments


def test_fresh_module_looks_along_the_star_with_equal_weights():
    params, _ = fresh(MultiScaleDeformableAttention())
    assert not np.any(params["sampling_offsets"]["kernel"])
    np.testing.assert_allclose(params["sampling_offsets"]["bias"], star_offsets(8, 3, 4).reshape(-1), atol=1e-6)
    for leaf in (*params["attention_weights"].values(), params["value_proj"]["bias"], params["output_proj"]["bias"]):
        assert not np.any(leaf)
    for name in ("value_proj", "output_proj"):
        bound = np.sqrt(6 / 128)
        assert 0.98 * bound < np.max(np.abs(params[name]["kernel"])) <= bound


def test_bfloat16_keeps_coordinates_in_float32():
    module = MultiScaleDeformableAttention(dtype=jnp.bfloat16)
    params, (query, reference, tokens) = fresh(module)
    exact, rounded = (
        jax.jit(lambda m=m: m.apply({"params": params}, query, reference, tokens, SHAPES))()
        for m in (MultiScaleDeformableAttention(), module)
    )
    assert rounded.dtype == jnp.bfloat16
    # Coordinates rounded to bfloat16's 8 bits would move samples by up to a tenth of a cell.
    assert np.linalg.norm(np.float32(rounded) - exact) < 1e-2 * np.linalg.norm(exact)
