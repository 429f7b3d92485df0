"""Pictures of queries: what the model did is what is shown."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from avs_jax.models.outputs import VCTOutputs
from avs_jax.predict import query_pictures, visualize
from avs_jax.predict.query_pictures import QueryView
from data_pipeline import labels

LAYERS, QUERIES, SIDE = 3, 7, 8


class Known:
    """Stands in for a model: its outputs and assignment are known, whatever it sees."""

    def __init__(self):
        rng = np.random.default_rng(3)
        self.assignment = rng.random((1, QUERIES, SIDE * SIDE)).astype(np.float32)
        shapes = {"class_logits": (QUERIES, 3), "mask_logits": (QUERIES, SIDE, SIDE)}
        drawn = {name: rng.normal(size=(LAYERS, 1, 1, *shape)).astype(np.float32) for name, shape in shapes.items()}
        prototypes = rng.normal(size=(1, 1, 23)).astype(np.float32)
        self.outputs = VCTOutputs(**drawn, frame_valid=np.ones((1, 1), bool), prototype_logits=prototypes)

    def apply(self, variables, inputs, train, mutable):
        assert inputs["frames"].shape == (1, 1, 4 * SIDE, 4 * SIDE, 3) and inputs["log_mel"].shape == (1, 1, 96, 64)
        assert inputs["frames"].dtype == np.float32 and not train and mutable == ["intermediates"]
        sown = {"query_generator": {"grouping": {"assignment": (self.assignment,)}}}
        return jax.tree.map(jnp.asarray, (self.outputs, {"intermediates": sown}))


@pytest.fixture(scope="module")
def seen():
    """A frame, what is shown of it, and what the model says."""
    model, frame = Known(), np.random.default_rng(4).integers(0, 256, (4 * SIDE, 4 * SIDE, 3)).astype(np.uint8)
    found = query_pictures.viewing_step(model)({}, {"frames": frame, "log_mel": np.zeros((96, 64), np.float32)})
    return frame, QueryView.of(jax.device_get(found)), model.outputs, model.assignment[0]


def test_a_view_is_what_the_model_did(seen):
    _, view, outputs, assignment = seen
    logits = np.float64(outputs.class_logits[-1, 0, 0])
    classes = (np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))[:, :-1]
    np.testing.assert_array_equal(view.queries, np.argsort(-classes.max(-1), kind="stable")[:5])
    np.testing.assert_array_equal(view.classes, classes.argmax(-1)[view.queries])
    np.testing.assert_allclose(view.confidence, classes.max(-1)[view.queries], rtol=1e-5)
    masks = 1 / (1 + np.exp(-np.float64(outputs.mask_logits[:, 0, 0])))
    np.testing.assert_allclose(view.masks, masks[:, view.queries], atol=1e-5)
    np.testing.assert_array_equal(view.groups.ravel(), assignment.argmax(0))
    np.testing.assert_allclose(
        view.similarity, 1 / (1 + np.exp(-np.float64(outputs.prototype_logits[0, 0]))), rtol=1e-4
    )


def test_a_panel_has_a_row_a_query_and_a_column_a_prediction(seen):
    frame, view, _, _ = seen
    whole = query_pictures.panel(frame, view, title="clip 1", tile_width=64)
    chart = query_pictures.similarity_chart(view.similarity)
    layers, queries = view.masks.shape[:2]
    assert whole.shape == (2 * 16 + (1 + queries) * 68 + len(chart), max(132 + layers * 68, chart.shape[1]), 3)
    large = np.asarray(Image.fromarray(frame).resize((64, 64), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(whole[16:80, 132:196], large)
    mask = np.asarray(Image.fromarray(view.masks[1, 0]).resize((64, 64), Image.Resampling.BILINEAR))
    colours = query_pictures.query_colours(QUERIES)
    tile = query_pictures.mask_map(large, mask, colours[view.queries[0]])
    np.testing.assert_array_equal(whole[32 + 68 : 32 + 68 + 64, 200:264], tile)
    alone = QueryView(**{**vars(view), "groups": None, "similarity": None})
    assert query_pictures.panel(frame, alone, tile_width=64).shape[0] == whole.shape[0] - len(chart)


def test_queries_have_different_colours():
    colours = query_pictures.query_colours(100).astype(int)
    assert len(np.unique(colours, axis=0)) == 100
    assert np.abs(colours[1:] - colours[:-1]).sum(-1).min() > 150  # neighbours by number are far apart


def test_pixels_take_the_colour_of_the_query_that_they_go_to():
    frame = np.full((2, 3, 3), 100, np.uint8)
    groups = np.array([[0, 0, 1], [1, 1, 0]])
    painted = query_pictures.grouping_map(frame, groups, np.array([(200, 0, 0), (0, 0, 200)], np.uint8))
    assert painted[0, 0].tolist() == [165, 35, 35] and painted[1, 0].tolist() == [35, 35, 165]


def test_a_mask_lights_its_pixels_and_is_outlined():
    frame, mask = np.full((8, 8, 3), 100, np.uint8), np.zeros((8, 8), np.float32)
    mask[2:7, 2:7] = 1
    lit = query_pictures.mask_map(frame, mask, np.array((9, 8, 7), np.uint8))
    assert lit[4, 4].tolist() == [100] * 3 and lit[0, 0].tolist() == [15] * 3 and lit[2, 4].tolist() == [9, 8, 7]


def test_prototypes_have_the_names_of_what_they_stand_for():
    """The authors number S4's categories from 1: helicopter 1, mynah_bird_singing 2, ..., race_car 23."""
    names = query_pictures.prototype_names(23)
    assert (names[0], names[1], names[19], names[22]) == ("helicopter", "mynah_bird_singing", "dog_barking", "race_car")
    assert query_pictures.prototype_names(71) == list(labels.AVSS_CLASSES)
    assert query_pictures.prototype_names(2) == ["prototype 0", "prototype 1"]


def test_what_is_truly_heard():
    truth = np.array([[0, 3], [255, 70]])
    assert query_pictures.heard(-1, truth, 71) == {0, 3, 70}
    category = labels.S4_CATEGORIES.index("race_car")
    assert query_pictures.heard(category, truth, 1) == {22} and query_pictures.heard(-1, truth, 1) == set()


def test_bars_are_as_long_as_the_similarity():
    chart = query_pictures.similarity_chart(np.array([1.0, 0.5, 0.0] + [0.25] * 68), sounding={1})
    row = chart[16 + 8, 186:250]
    assert (row == visualize.GREY).all(-1).sum() == 61
    assert (chart[32 + 8, 186:250] == visualize.SOUNDING).all(-1).sum() == 31
    assert chart.shape[1] == 3 * 284
