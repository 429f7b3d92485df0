"""Pictures: colours where they belong, and every part in its place."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from avs_jax.predict import visualize
from data_pipeline import labels


def test_colours_of_one_class_and_of_avss():
    assert visualize.class_colours(1).tolist() == [[0, 0, 0], list(visualize.SOUNDING)]
    np.testing.assert_array_equal(visualize.class_colours(71), labels.palette())


def test_overlay_mixes_inside_paints_the_outline_and_leaves_the_background():
    frame = np.full((9, 9, 3), 100, np.uint8)
    mask = np.zeros((9, 9), np.uint8)
    mask[2:7, 2:7] = 1
    mask[0, 0] = 255
    colours = np.array([(0, 0, 0), (200, 0, 50)], np.uint8)
    painted = visualize.overlay(frame, mask, colours, opacity=0.25)
    assert painted[4, 4].tolist() == [125, 75, 88]
    assert painted[2, 4].tolist() == [200, 0, 50]
    assert painted[8, 8].tolist() == [100, 100, 100]
    assert painted[0, 0].tolist() == list(visualize.GREY)
    np.testing.assert_array_equal(visualize.overlay(frame, 0 * mask, colours), frame)


def test_overlay_refuses_what_does_not_fit():
    frame, colours = np.zeros((4, 4, 3), np.uint8), visualize.class_colours(1)
    with pytest.raises(ValueError, match="a mask of \\(4, 5\\) pixels cannot be laid over a frame of \\(4, 4\\)"):
        visualize.overlay(frame, np.zeros((4, 5), np.uint8), colours)
    with pytest.raises(ValueError, match="has class 7, there are colours for 2"):
        visualize.overlay(frame, np.full((4, 4), 7, np.uint8), colours)


def test_spectrogram_has_low_pitch_below_and_time_to_the_right():
    quiet = np.full((2, 96, 64), math.log(0.01), np.float32)
    loud = quiet.copy()
    loud[1, 48:, :8] = 2.0  # the end of the second patch, low bands
    picture = visualize.spectrogram(loud, (64, 192)).astype(int).sum(-1)
    assert picture.shape == (64, 192)
    assert picture[60:, 150:].min() > 600 and picture[:50].max() < 10 and picture[:, :130].max() < 10
    assert visualize.spectrogram(quiet, (16, 16)).max() == 4


def clip(classes, frames=3, height=6, width=8):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (frames, height, width, 3)).astype(np.uint8)
    masks = rng.integers(0, max(2, classes), (2, frames, height, width)).astype(np.uint8)
    return images, masks[0], masks[1], np.zeros((frames, 96, 64), np.float32)


def test_a_panel_shows_frames_truth_prediction_and_sound():
    frames, truth, prediction, log_mel = clip(1)
    picture = visualize.panel(frames, truth, prediction, log_mel, title="clip 7  J 0.50", tile_width=80)
    left, step = 76, 84
    assert picture.dtype == np.uint8 and picture.shape == (16 + 3 * 60 + 40 + 5 * 4, left + 3 * step, 3)
    tile = np.asarray(Image.fromarray(frames[1]).resize((80, 60), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(picture[20:80, left + step : left + step + 80], tile)
    painted = visualize.overlay(frames[2], prediction[2], visualize.class_colours(1))
    tile = np.asarray(Image.fromarray(painted).resize((80, 60), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(picture[148:208, left + 2 * step : left + 2 * step + 80], tile)
    without = visualize.panel(frames, truth, prediction, tile_width=80)
    assert without.shape == (3 * 60 + 4 * 4, left + 3 * step, 3)


def test_the_truth_of_a_frame_that_is_not_annotated_is_blank():
    frames, truth, prediction, _ = clip(1)
    picture = visualize.panel(frames, truth, prediction, annotated=[True, False, True], tile_width=80)
    assert (picture[68:128, 160:240] == 235).all() and not (picture[68:128, 76:156] == 235).all()


def test_a_panel_of_avss_names_the_classes():
    frames, truth, prediction, log_mel = clip(71)
    truth[:], prediction[:] = 0, 0
    truth[0, 0, 0], prediction[1, 0, 0] = 41, 255
    picture = visualize.panel(frames, truth, prediction, log_mel, num_classes=71)
    assert (picture[:16] == labels.palette()[41]).all(-1).sum() == 100  # the square beside "man"


def test_pictures_are_written(tmp_path):
    image = clip(1)[0][0]
    visualize.save(tmp_path / "pictures" / "clip.png", image)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "pictures" / "clip.png")), image)
