"""The lines of a sweep."""

import xml.etree.ElementTree

import pytest

from avs_jax.benchmark import sweep


def test_a_line_is_found_exactly():
    assert sweep.fit([1, 2, 4], [5, 7, 11]) == pytest.approx({"slope": 2, "intercept": 3, "r2": 1})


def test_a_parabola_is_no_line():
    assert sweep.fit([1, 2, 3, 4, 5], [1, 4, 9, 16, 25])["r2"] < 0.97


def test_constant_cost_is_a_line():
    assert sweep.fit([1, 2, 3], [4.0, 4.0, 4.0])["r2"] == 1


def test_the_plot_is_a_picture_with_every_point():
    points = {"seconds": [1.0, 2.0, 4.0], "peak_bytes": [1e9, 2e9, 4e9]}
    fits = {name: sweep.fit([1, 2, 4], values) for name, values in points.items()}
    picture = sweep.plot({"axis": "batch", "mode": "train", "values": [1, 2, 4], **points, "fits": fits})
    root = xml.etree.ElementTree.fromstring(picture)
    assert len(root.findall("{http://www.w3.org/2000/svg}circle")) == 6
