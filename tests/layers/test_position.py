"""Position encoding against the published one; cell centres."""

from __future__ import annotations

import golden
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax.layers.position import cell_centres, sine_position_encoding


def encode(valid, **options):
    return np.asarray(sine_position_encoding(valid, 128, **options)).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("size", ((5, 9), (28, 28), (64, 48)))
def test_encoding_of_whole_maps(size):
    case = golden.load("avsegformer/sine_positional_encoding")
    encoded = encode(jnp.ones((1, *size), bool))
    assert case.check(f"zeros_{size[0]}x{size[1]}", encoded).max_abs < 1e-5


def test_encoding_counts_valid_cells_only():
    case = golden.load("avsegformer/sine_positional_encoding")
    valid = np.ones((2, 8, 12), bool)
    valid[0, 6:] = False
    valid[1, :, 9:] = False
    assert case.check("padded_8x12", encode(valid)).max_abs < 1e-5


def test_normalised_encoding():
    case = golden.load("avsegformer/sine_positional_encoding")
    assert case.check("normalized_5x9", encode(jnp.ones((1, 5, 9), bool), normalize=True)).max_abs < 1e-5


def test_cell_centres_are_x_then_y_row_by_row():
    centres = np.asarray(cell_centres(((2, 4), (1, 1))))
    assert centres.shape == (9, 2)
    np.testing.assert_allclose(centres[[0, 1, 4, 8]], [(0.125, 0.25), (0.375, 0.25), (0.125, 0.75), (0.5, 0.5)])
