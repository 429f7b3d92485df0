"""Colour distortions against Python's colorsys, OpenCV's own numbers, and plain float64 arithmetic."""

import colorsys
import zlib

import numpy as np
import pytest

from data_pipeline import colour
from data_pipeline.colour import Colours


def grid(step, *sizes):
    """Every combination of three values `step` apart, as an image of one row."""
    axes = [np.arange(0, size, step, dtype=np.uint8) for size in sizes]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(1, -1, 3)


def test_rgb_to_hsv_is_opencvs():
    """The checksum is of OpenCV's (4.10) result for the same 140,608 colours."""
    assert zlib.crc32(colour.rgb_to_hsv(grid(5, 256, 256, 256)).tobytes()) == 2523014156


def test_rgb_to_hsv_against_colorsys():
    rgb = grid(15, 256, 256, 256)
    expected = np.array([colorsys.rgb_to_hsv(*pixel) for pixel in (rgb[0] / 255.0)]) * (180, 255, 255)
    off = np.abs(colour.rgb_to_hsv(rgb)[0] - expected)
    off[:, 0] = np.minimum(off[:, 0], 180 - off[:, 0])  # a circle
    assert off.max() < 0.6


def test_hsv_to_rgb_against_colorsys():
    """OpenCV cuts off what is behind the point; float32 may fall on the other side of a whole number."""
    hsv = grid(9, 180, 256, 256)
    expected = np.array([colorsys.hsv_to_rgb(*pixel) for pixel in (hsv[0] / np.array([180.0, 255, 255]))]) * 255
    found = colour.hsv_to_rgb(hsv)[0]
    assert (found <= expected + 1e-3).all() and (found > expected - 1 - 1e-3).all()


IMAGE = np.random.default_rng(0).integers(0, 256, (9, 11, 3)).astype(np.uint8)


def test_nothing_drawn_changes_nothing():
    assert colour.distort(IMAGE, Colours()) is IMAGE


@pytest.mark.parametrize(
    ("colours", "expected"),
    [
        (Colours(brightness=-20.3), IMAGE - 20.3),
        (Colours(brightness=31.9), IMAGE + 31.9),
        (Colours(contrast=1.37), IMAGE * 1.37),
        (Colours(contrast=0.62, contrast_first=False), IMAGE * 0.62),
        (Colours(brightness=10.5, contrast=1.2), np.floor(np.clip(IMAGE + 10.5, 0, 255)) * 1.2),
    ],
)
def test_brightness_and_contrast_are_rounded_down_and_kept_in_range(colours, expected):
    np.testing.assert_array_equal(colour.distort(IMAGE, colours), np.floor(np.clip(expected, 0, 255)))


def test_saturation_and_hue_change_what_they_are_named_after():
    before = colour.rgb_to_hsv(IMAGE).astype(int)
    less = colour.rgb_to_hsv(colour.distort(IMAGE, Colours(saturation=0.5))).astype(int)
    bright = before[..., 2] > 120  # few steps are left of dark pixels
    assert np.abs(less - before // (1, 2, 1))[bright][:, 1:].max() <= 4
    turned = colour.rgb_to_hsv(colour.distort(IMAGE, Colours(hue=-18))).astype(int)
    turn = (turned - before)[..., 0] % 180
    vivid = bright & (before[..., 1] > 120)
    assert np.abs(turn[vivid] - 162).max() <= 2


def test_the_order_of_the_steps():
    first = colour.distort(IMAGE, Colours(contrast=1.5, saturation=0.7, hue=9))
    one_by_one = IMAGE
    for step in (Colours(contrast=1.5), Colours(saturation=0.7), Colours(hue=9)):
        one_by_one = colour.distort(one_by_one, step)
    np.testing.assert_array_equal(first, one_by_one)
    last = colour.distort(IMAGE, Colours(contrast=1.5, saturation=0.7, hue=9, contrast_first=False))
    one_by_one = IMAGE
    for step in (Colours(saturation=0.7), Colours(hue=9), Colours(contrast=1.5)):
        one_by_one = colour.distort(one_by_one, step)
    np.testing.assert_array_equal(last, one_by_one)
    assert (first != last).any()


def test_draws_are_as_published():
    """Each step half the time, uniform between its ends; 18 and -18 among the hues."""
    rng = np.random.default_rng(1)
    drawn = [colour.draw(rng) for _ in range(4000)]
    for name, low, high in (("brightness", -32, 32), ("contrast", 0.5, 1.5), ("saturation", 0.5, 1.5)):
        values = np.array([getattr(d, name) for d in drawn if getattr(d, name) is not None])
        assert 1850 < len(values) < 2150
        assert low <= values.min() < low + 0.02 * (high - low) and high - 0.02 * (high - low) < values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < 0.03 * (high - low)
    hues = [d.hue for d in drawn if d.hue is not None]
    assert 1850 < len(hues) < 2150 and set(hues) == set(range(-18, 19))
    assert 1850 < sum(d.contrast_first for d in drawn) < 2150
