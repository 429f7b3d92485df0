"""Films of discs, whose truth is plain: who is seen where, how large, and on which path."""

import dataclasses

import numpy as np
import pytest

from data_pipeline.synthetic_film import film
from data_pipeline.synthetic_kinds import KINDS
from data_pipeline.synthetic_shapes import Picture, colour, disc

RADIUS, FRAMES, SIZE = 0.8, 5, (128, 160)


def _disc(x, y, look):
    edge = disc(x, y, 0, 0, RADIUS)
    return Picture(edge, [(edge, look.tint)])


def _green_disc(x, y, look):
    edge = disc(x, y, 0, 0, RADIUS)
    return Picture(edge, [(edge, colour(0, 255, 0))])


DISCS = tuple(dataclasses.replace(kind, picture=_disc) for kind in KINDS)


def rng(seed):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module", params=[(0, 3), (1, 3), (2, 4)], ids=str)
def filmed(request):
    seed, count = request.param
    return count, *film(rng(seed), DISCS[:count], FRAMES, SIZE)


def test_every_pixel_shows_one_object_or_the_backdrop(filmed):
    count, frames, owner = filmed
    assert frames.shape == (FRAMES, *SIZE, 3) and frames.dtype == np.uint8
    assert owner.shape == (FRAMES, *SIZE) and owner.dtype == np.int8
    for t in range(FRAMES):
        assert set(np.unique(owner[t])) == {-1, *range(count)}  # all are seen all the time


def test_an_object_has_its_own_colour_inside(filmed):
    """Well within a disc all pixels of all frames are of one colour, which no other object has."""
    count, frames, owner = filmed
    colours = []
    for number in range(count):
        found, counts = np.unique(frames[owner == number], axis=0, return_counts=True)
        assert counts.max() > 0.6 * counts.sum()
        colours.append(tuple(found[counts.argmax()]))
    assert len(set(colours)) == count


def last_disc(filmed):
    """Of the object that nothing covers: its pixels in each frame, and their centres (T, 2), y first."""
    count, _, owner = filmed
    seen = owner == count - 1
    return seen.sum((1, 2)), np.array([np.argwhere(each).mean(0) for each in seen])


def test_an_object_is_a_disc_of_the_stated_size(filmed):
    """A share of the frame within the published bounds, by 6 % of its side more or less; a tenth may be cut off."""
    pixels, _ = last_disc(filmed)
    low, high = {3: (0.09, 0.17), 4: (0.08, 0.12)}[filmed[0]]
    shares = pixels / (SIZE[0] * SIZE[1])
    assert (shares > 0.9 * low * 0.94**2).all() and (shares < 1.02 * high * 1.06**2).all()


def test_an_object_moves_straight_and_evenly(filmed):
    _, centres = last_disc(filmed)
    assert np.abs(np.diff(centres, n=2, axis=0)).max() < 0.75  # pixels
    assert (centres > 0).all() and (centres < SIZE).all()


@pytest.mark.parametrize("number", range(3))
def test_the_owner_tells_whose_colours_a_pixel_shows(number):
    """Painted green inside, an object is green where it is the owner, and nowhere that a later one covers it.

    Through the smooth edge of a later object, half a pixel wide, it shines through a little.
    """
    kinds = list(DISCS[:3])
    before, owner = film(rng(7), kinds, FRAMES, SIZE)
    kinds[number] = dataclasses.replace(kinds[number], picture=_green_disc)
    after, same = film(rng(7), kinds, FRAMES, SIZE)
    np.testing.assert_array_equal(owner, same)
    green, changed = (after == (0, 255, 0)).all(-1), (after != before).any(-1)
    assert (owner[green] == number).all() and green.sum() > 0.6 * (owner == number).sum()
    assert (owner[changed] == number).mean() > 0.98


def test_one_generator_gives_one_film():
    first, again, other = (film(rng(seed), DISCS[:3], FRAMES, (48, 64)) for seed in (3, 3, 4))
    for mine, theirs in zip(first, again, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert (first[0] != other[0]).any() and (first[1] != other[1]).any()
