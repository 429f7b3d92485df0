"""What all twelve pictures of objects have in common, on which masks and scenes rely."""

import numpy as np
import pytest
from scipy import ndimage

from data_pipeline.synthetic_kinds import KINDS, draw_look, extent
from data_pipeline.synthetic_shapes import OUTLINE

STEP = 3.0 / 240
AXIS = np.arange(-1.5, 1.5 + STEP / 2, STEP, dtype=np.float32)
X, Y = np.meshgrid(AXIS, AXIS)

each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def picture(kind, seed=0, x=X, y=Y):
    return kind.picture(x, y, draw_look(kind, np.random.default_rng(seed)))


@each_kind
def test_nothing_is_painted_outside_of_the_mask(kind):
    found = picture(kind)
    for distance, _ in found.layers:
        assert (found.silhouette[distance < 0] <= OUTLINE).all()


@each_kind
def test_an_object_is_one_piece_of_the_stated_extent(kind):
    covered = picture(kind).silhouette <= OUTLINE
    assert ndimage.label(covered, np.ones((3, 3)))[1] == 1  # pixels that touch by a corner, too
    area, radius = extent(kind)
    assert covered.sum() * STEP**2 == pytest.approx(area, rel=0.02)
    assert np.hypot(X, Y)[covered].max() == pytest.approx(radius, abs=2 * STEP)
    assert 0.9 < np.abs((X, Y))[:, covered].max() < 1.25  # "reaches to about 1", and not over what `extent` looks at


@each_kind
def test_colours_and_distances_are_of_one_type_and_in_range(kind):
    """float32 throughout, so that no platform's wider arithmetic comes in."""
    found = picture(kind, seed=1)
    assert found.silhouette.dtype == np.float32 and found.silhouette.shape == X.shape
    for distance, fill in found.layers:
        assert distance.dtype == fill.dtype == np.float32
        assert distance.shape == X.shape and fill.shape in ((3,), (3, *X.shape))
        assert fill.min() >= 0 and fill.max() <= 255


@each_kind
def test_a_point_looks_the_same_whatever_is_drawn_beside_it(kind):
    """So a scene does not depend on the size of its frames."""
    whole, part = picture(kind), picture(kind, x=X[5::7, 3::11], y=Y[5::7, 3::11])
    np.testing.assert_array_equal(part.silhouette, whole.silhouette[5::7, 3::11])
    for (distance, fill), (all_distances, all_fill) in zip(part.layers, whole.layers, strict=True):
        np.testing.assert_array_equal(distance, all_distances[5::7, 3::11])
        np.testing.assert_array_equal(fill, all_fill if all_fill.ndim == 1 else all_fill[:, 5::7, 3::11])


def test_kinds_differ_in_shape():
    """No two silhouettes agree on more than 92 % of what either covers, mirrored or not."""
    covered = [picture(kind).silhouette <= OUTLINE for kind in KINDS]
    for i, first in enumerate(covered):
        for second in covered[:i]:
            for other in (second, second[:, ::-1]):
                assert (first & other).sum() / (first | other).sum() < 0.92
