"""Shapes against plane geometry, colours against Python's colorsys, and painting against its own distances."""

import colorsys

import numpy as np
import pytest

from data_pipeline import synthetic_shapes as shapes

AXIS = np.linspace(-1.5, 1.5, 121, dtype=np.float32)
X, Y = np.meshgrid(AXIS, AXIS)
CLOSE = {"rtol": 0, "atol": 1e-6}


def at(shape, x, y, *arguments):
    """A shape's distance at one point."""
    return float(shape(np.float32([x]), np.float32([y]), *arguments)[0])


def test_a_disc_is_the_distance_to_its_edge():
    expected = np.hypot(np.float64(X) - 0.2, np.float64(Y) + 0.3) - 0.5
    np.testing.assert_allclose(shapes.disc(X, Y, 0.2, -0.3, 0.5), expected, **CLOSE)


def test_an_ellipse_has_its_edge_where_it_belongs():
    turn = np.linspace(0, 2 * np.pi, 50)
    for scale, sign in ((0.98, -1), (1.02, 1)):
        x, y = 0.1 + scale * 0.8 * np.cos(turn), -0.2 + scale * 0.3 * np.sin(turn)
        assert (np.sign(shapes.ellipse(x.astype(np.float32), y.astype(np.float32), 0.1, -0.2, 0.8, 0.3)) == sign).all()
    np.testing.assert_allclose(
        shapes.ellipse(X, Y, 0.2, -0.3, 0.5, 0.5), shapes.disc(X, Y, 0.2, -0.3, 0.5), **CLOSE
    )  # equal axes


def test_a_box_is_inside_between_its_sides():
    beyond_x, beyond_y = np.abs(np.float64(X) - 0.2) - 0.6, np.abs(np.float64(Y) + 0.1) - 0.3
    clear = np.minimum(np.abs(beyond_x), np.abs(beyond_y)) > 1e-5  # not on a side
    inside = (beyond_x < 0) & (beyond_y < 0)
    np.testing.assert_array_equal((shapes.box(X, Y, 0.2, -0.1, 0.6, 0.3) < 0)[clear], inside[clear])
    for x, y, distance in ((1.0, -0.1, 0.2), (0.2, 0.5, 0.3), (0.2, -0.1, -0.3), (0.7, -0.1, -0.1)):
        assert at(shapes.box, x, y, 0.2, -0.1, 0.6, 0.3) == pytest.approx(distance, abs=1e-6)


def test_a_round_box_has_its_corners_cut():
    """Half sizes 0.6 and 0.4, corners of radius 0.1: the circles stand at (0.5, 0.3)."""
    size = (0.0, 0.0, 0.6, 0.4, 0.1)
    for x, y, distance in (
        (0.6, 0.0, 0.0),
        (0.0, -0.4, 0.0),
        (0.9, 0.1, 0.3),
        (0.6, 0.4, 0.1 * (np.sqrt(2) - 1)),  # the corner of the plain box is outside
        (-0.5 - 0.06, 0.3 + 0.08, 0.0),
        (0.5 + 0.3, -0.3 - 0.4, 0.4),
    ):
        assert at(shapes.round_box, x, y, *size) == pytest.approx(distance, abs=1e-6)


def test_a_polygon_is_within_all_of_its_sides():
    """A triangle with the sides y = 0.5, y = 2x - 1 and y = -2x - 1."""
    found = shapes.polygon(X, Y, (0.0, -1.0), (0.75, 0.5), (-0.75, 0.5))
    inside = (Y < 0.5) & (Y > 2 * X - 1) & (Y > -2 * X - 1)
    sides = np.minimum(np.minimum(np.abs(Y - 0.5), np.abs(Y - 2 * X + 1)), np.abs(Y + 2 * X + 1))
    np.testing.assert_array_equal((found < 0)[sides > 1e-4], inside[sides > 1e-4])
    triangle = (shapes.polygon, 0.0, 0.4, (0.0, -1.0), (0.75, 0.5), (-0.75, 0.5))
    assert at(*triangle) == pytest.approx(-0.1, abs=1e-6)
    assert at(shapes.polygon, 0.0, 0.9, *triangle[3:]) == pytest.approx(0.4, abs=1e-6)


def test_a_union_is_inside_any_of_its_parts():
    parts = [shapes.disc(X, Y, -0.5, 0, 0.4), shapes.box(X, Y, 0.5, 0.1, 0.2, 0.6), shapes.disc(X, Y, 0, 1, 0.3)]
    np.testing.assert_array_equal(shapes.union(*parts) < 0, np.any([part < 0 for part in parts], axis=0))
    np.testing.assert_array_equal(shapes.union(parts[0]), parts[0])


def test_folding_brings_eight_points_onto_one():
    for x, y in ((0.9, 0.2), (0.5, 0.5), (0.3, 0.0)):
        signs = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
        points = np.float32([(a * x, b * y) for a, b in signs] + [(a * y, b * x) for a, b in signs])
        np.testing.assert_array_equal(np.stack(shapes.fold(*points.T), axis=1), np.float32([(x, y)] * 8))
    fx, fy = shapes.fold(X, Y)
    assert (fy >= 0).all() and (fy <= fx).all()
    np.testing.assert_allclose(np.hypot(fx, fy), np.hypot(X, Y), **CLOSE)


def test_stripes_come_again_and_take_half_of_the_room():
    u = np.arange(0, 8, 1 / 64, dtype=np.float32)
    weights = shapes.stripes(u, 2.0, 0.25)
    assert weights.min() == 0 and weights.max() == 1 and weights.mean() == pytest.approx(0.5, abs=1e-6)
    np.testing.assert_array_equal(weights[:-32], weights[32:])  # two a unit
    np.testing.assert_array_equal(shapes.stripes(u, 2.0, 1.25), weights)  # a phase of one is none


@pytest.mark.parametrize("hue", [0, 18, 60, 119.5, 200, 300, 359, 368, -10])
def test_hsv_is_colorsys(hue):
    for saturation, value in ((0.0, 0.5), (0.3, 1.0), (1.0, 0.7)):
        expected = 255 * np.array(colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value))
        found = shapes.hsv(hue, saturation, value)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


def test_mixing_goes_from_one_colour_to_the_other():
    first, second = shapes.colour(10, 20, 30), shapes.colour(110, 0, 30)
    mixed = shapes.mix(first, second, np.float32([[0, 1], [0.5, 0.25]]))
    np.testing.assert_array_equal(mixed[:, 0, 0], first)
    np.testing.assert_array_equal(mixed[:, 0, 1], second)
    np.testing.assert_array_equal(mixed[:, 1], [(60, 35), (10, 15), (30, 30)])


def test_painting_covers_the_outlined_silhouette_layer_over_layer():
    pixel = 3.0 / 120
    look = shapes.Look(shapes.colour(200, 100, 50), shapes.colour(1, 2, 3), 0.0)
    disc, spot = shapes.disc(X, Y, 0, 0, 0.7), shapes.disc(X, Y, 0.2, 0, 0.25)
    canvas = np.full((3, *X.shape), 240, np.float32)
    layers = [(disc, look.tint), (spot, shapes.colour(0, 0, 9))]
    covered = shapes.paint(canvas, shapes.Picture(disc, layers), look, pixel)
    radius, from_spot = np.hypot(X, Y), np.hypot(X - 0.2, Y)
    outlined = 0.7 + float(shapes.OUTLINE)
    np.testing.assert_array_equal(covered, shapes.disc(X, Y, 0, 0, 0.7) <= shapes.OUTLINE)
    assert (canvas[:, radius > outlined + pixel] == 240).all()
    ring = (radius > 0.7 + pixel) & (radius < outlined - pixel)
    body = (radius < 0.7 - pixel) & (from_spot > 0.25 + pixel)
    inner = from_spot < 0.25 - pixel
    for where, colour in ((ring, look.tint * shapes.OUTLINE_SHADE), (body, look.tint), (inner, np.array((0, 0, 9)))):
        assert where.any()
        np.testing.assert_allclose(canvas[:, where] - colour[:, None], 0, atol=1e-3)
    edge = np.abs(radius - outlined) < pixel / 2
    assert (canvas[0, edge] > 56).all() and (canvas[0, edge] < 240).all()  # smooth over one pixel
