"""Every form of sampling against scipy's interpolation in float64, its gradients against finite differences."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from avs_jax.layers import sampling

FORMS = ("gather", "packed", "looped", "tent")
SHAPES = ((7, 5), (3, 4), (1, 2))


def expected(value, locations, weights, shapes):
    """Float64 evaluation, one map, head and frame at a time; scipy lets what lies outside of a map be zero."""
    frames, queries, heads, levels = locations.shape[:4]
    output = np.zeros((frames, queries, heads, value.shape[-1]))
    starts = np.cumsum([0] + [h * w for h, w in shapes])
    for n, head, level, d in np.ndindex(frames, heads, levels, value.shape[-1]):
        height, width = shapes[level]
        cells = value[n, starts[level] : starts[level + 1], head, d].reshape(height, width)
        x, y = np.moveaxis(locations[n, :, head, level], -1, 0)
        samples = ndimage.map_coordinates(
            cells, [y * height - 0.5, x * width - 0.5], order=1, mode="grid-constant", cval=0.0
        )
        output[n, :, head, d] += (samples * weights[n, :, head, level]).sum(-1)
    return output


def arguments(shapes=SHAPES, frames=2, queries=6, heads=3, points=2, features=4, seed=0):
    """Random value, locations (a third of them outside) and weights, float64; no location near a kink."""
    rng = np.random.default_rng(seed)
    value = rng.standard_normal((frames, sum(h * w for h, w in shapes), heads, features))
    size = np.array([(w, h) for h, w in shapes])[:, None]
    corner = rng.integers(-2, size + 1, (frames, queries, heads, len(shapes), points, 2))
    locations = (corner + rng.uniform(0.1, 0.9, corner.shape) + 0.5) / size
    weights = rng.standard_normal(locations.shape[:-1])
    return value, locations, weights


@functools.partial(jax.jit, static_argnums=(3, 4))
def sample(value, locations, weights, shapes, form):
    return sampling.sample(value, locations, weights, shapes, form)


@functools.partial(jax.jit, static_argnums=(4, 5))
def gradients(value, locations, weights, cotangent, shapes, form):
    return jax.vjp(lambda *a: sampling.sample(*a, shapes, form), value, locations, weights)[1](cotangent)


def single(*arrays):
    return tuple(np.asarray(array, np.float32) for array in arrays)


@pytest.mark.parametrize("form", FORMS)
def test_random_points_inside_and_outside(form):
    inputs = arguments()
    np.testing.assert_allclose(sample(*single(*inputs), SHAPES, form), expected(*inputs, SHAPES), atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_a_ramp_is_read_exactly_where_it_is_sampled(form):
    """A map whose value is its own coordinate: wrong cells, swapped axes or half-pixel shifts show at once."""
    height, width = 6, 9
    rows, columns = np.mgrid[:height, :width]
    ramp = np.stack([columns, rows], -1).reshape(1, -1, 1, 2)
    locations = np.random.default_rng(0).uniform(0.5, [width - 0.5, height - 0.5], (1, 50, 1, 1, 1, 2))
    locations /= [width, height]
    read = sample(*single(ramp, locations, np.ones((1, 50, 1, 1, 1))), ((height, width),), form)
    np.testing.assert_allclose(read[0, :, 0], locations[0, :, 0, 0, 0] * [width, height] - 0.5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_corners_outside_count_nothing_one_by_one(form):
    ones = np.ones((1, 4, 1, 1))
    locations = [(0.5, 0.5), (0.0, 0.5), (0.0, 0.0), (1.0, 1.0), (-0.1, 0.5), (-0.25, 0.5), (0.5, 1.25), (9.0, -7.0)]
    inside = [1.0, 0.5, 0.25, 0.25, 0.3, 0.0, 0.0, 0.0]  # share of a sample's area that is on the 2 x 2 map
    locations = np.reshape(locations, (1, -1, 1, 1, 1, 2))
    read = sample(*single(ones, locations, np.ones(locations.shape[:-1])), ((2, 2),), form)
    np.testing.assert_allclose(read[0, :, 0, 0], inside, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_equal_finite_differences(form):
    inputs = arguments(queries=4, heads=2)
    rng = np.random.default_rng(1)
    cotangent = rng.standard_normal((2, 4, 2, 4))
    found = gradients(*single(*inputs, cotangent), SHAPES, form)
    for position, gradient in enumerate(found):
        for _ in range(3):  # along random directions
            direction = rng.standard_normal(gradient.shape)
            step = 1e-6 * direction

            def shifted(sign, position=position, step=step):
                moved = [array + sign * step if i == position else array for i, array in enumerate(inputs)]
                return np.sum(expected(*moved, SHAPES) * cotangent)

            derivative = (shifted(1) - shifted(-1)) / 2e-6
            np.testing.assert_allclose(np.sum(gradient * direction), derivative, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", ("packed", "looped", "tent"))
def test_equals_the_plain_reference_where_many_samples_share_a_cell(form):
    shapes = ((2, 3), (1, 1))
    value, locations, weights = single(*arguments(shapes, queries=200))
    read = (sample(value, locations, weights, shapes, each) for each in (form, "gather"))
    np.testing.assert_allclose(*read, rtol=1e-5, atol=1e-5)
    cotangent = np.random.default_rng(2).standard_normal((2, 200, 3, 4)).astype(np.float32)
    plain = gradients(value, locations, weights, cotangent, shapes, "gather")
    for mine, reference in zip(gradients(value, locations, weights, cotangent, shapes, form), plain, strict=True):
        np.testing.assert_allclose(mine, reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", ("packed", "looped", "tent"))
def test_bfloat16_values_are_summed_in_float32(form):
    """400 samples fall on one cell: its gradient, summed in bfloat16, would stop growing at 256."""
    value = jnp.ones((1, 1, 1, 2), jnp.bfloat16)
    locations, weights = jnp.full((1, 400, 1, 1, 1, 2), 0.5), jnp.ones((1, 400, 1, 1, 1))
    output = sample(value, locations, weights, ((1, 1),), form)
    assert output.dtype == jnp.bfloat16
    gradient, _, _ = gradients(value, locations, weights, jnp.ones_like(output), ((1, 1),), form)
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.float32(gradient), 400.0)


def test_auto_is_what_the_platform_likes():
    inputs = single(*arguments())

    def lowered(platform):
        function = jax.jit(lambda *a: sampling.sample(*a, SHAPES))
        return jax.export.export(function, platforms=[platform])(*inputs).mlir_module()

    assert "stablehlo.while" in lowered("cpu")
    assert "stablehlo.while" not in lowered("cuda") and "stablehlo.gather" in lowered("cuda")
    assert "stablehlo.while" not in lowered("tpu") and "stablehlo.gather" not in lowered("tpu")
    assert sampling.chosen("auto") == {"cpu": "looped", "tpu": "tent"}.get(jax.default_backend(), "packed")


def test_the_loop_s_backward_pass_does_not_keep_what_it_read():
    shapes, corners = ((16, 16), (8, 8)), 4
    inputs = single(*arguments(shapes, frames=4, queries=320, heads=4, points=4, features=16))
    cotangent = np.ones((4, 320, 4, 16), np.float32)
    compiled = gradients.lower(*inputs, cotangent, shapes, "auto").compile()
    read = inputs[2].nbytes * corners * 16
    assert compiled.memory_analysis().temp_size_in_bytes < 0.4 * read


def test_bad_arguments_are_named():
    value, locations, weights = single(*arguments())
    with pytest.raises(ValueError, match="49 tokens do not fill"):
        sampling.sample(value, locations, weights, ((7, 5), (3, 4)), "packed")
    with pytest.raises(ValueError, match="'nearest'"):
        sampling.sample(value, locations, weights, SHAPES, "nearest")
