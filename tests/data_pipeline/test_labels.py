"""Palette, colour masks and class indices, against the released AVSS loader."""

import golden
import numpy as np
import pytest
from PIL import Image

from data_pipeline import labels

GOLDEN = golden.load("avsegformer/data_avss")


def test_palette():
    assert labels.palette().shape == (71, 3) and labels.palette().dtype == np.uint8
    np.testing.assert_array_equal(labels.palette(), GOLDEN.stored("palette"))
    assert len(np.unique(labels.palette(), axis=0)) == 71


def test_class_names():
    assert len(labels.AVSS_CLASSES) == len(set(labels.AVSS_CLASSES)) == 71
    assert list(labels.AVSS_CLASSES[1:]) == sorted(labels.AVSS_CLASSES[1:])
    assert len(labels.S4_CATEGORIES) == len(set(labels.S4_CATEGORIES)) == 23


@pytest.mark.parametrize("name", ["landscape", "portrait", "square"])
def test_labels_of_resized_colour_masks(name):
    label = GOLDEN.inputs[f"label_{name}"]
    colours = Image.fromarray(labels.indices_to_colours(label))
    squashed = np.asarray(colours.resize((224, 224), Image.Resampling.NEAREST))
    assert GOLDEN.check(f"{name}/eval_label", labels.colours_to_indices(squashed)).max_abs == 0

    short = min(colours.size)
    width, height = (224 if side == short else int(1.0 * side * 224 / short) for side in colours.size)
    left, top = round((width - 224) / 2), round((height - 224) / 2)
    scaled = colours.resize((width, height), Image.Resampling.NEAREST).crop((left, top, left + 224, top + 224))
    assert GOLDEN.check(f"{name}/train_label", labels.colours_to_indices(np.asarray(scaled))).max_abs == 0


def test_every_class_survives_the_round_trip():
    indices = np.arange(71, dtype=np.uint8).reshape(1, 71)
    decoded = labels.colours_to_indices(labels.indices_to_colours(indices), strict=True)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, indices)


def test_unknown_colours():
    rows = np.array([[1, 2, 3], [128, 0, 0], [0, 0, 0], [0, 0, 0]], np.uint8)
    mask = np.repeat(rows[:, None], 4, axis=1)
    np.testing.assert_array_equal(labels.colours_to_indices(mask), GOLDEN.values["unknown_colour_label"])
    with pytest.raises(labels.UnknownColours, match=r"\(1, 2, 3\)") as error:
        labels.colours_to_indices(mask, strict=True)
    assert error.value.colours == [(1, 2, 3)]


def test_neighbouring_colours_are_unknown():
    mask = labels.indices_to_colours(np.arange(1, 71).reshape(1, 70)) + np.uint8(1)
    assert not labels.colours_to_indices(mask).any()


def test_wrong_arrays_are_refused():
    with pytest.raises(ValueError, match="uint8"):
        labels.colours_to_indices(np.zeros((2, 2, 3)))
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        labels.colours_to_indices(np.zeros((2, 2), np.uint8))
