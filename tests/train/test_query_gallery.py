"""Pictures of the queries in chosen clips: each shows its own clip, and the model is compiled once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax.models.outputs import VCTOutputs
from avs_jax.predict import query_pictures
from avs_jax.train.query_gallery import QueryGallery
from tests.data_pipeline.known_records import SIZE, make_record, pixels, write_set

QUERIES, CLASSES, PROTOTYPES = 3, 2, 23


class Echo:
    """Stands in for a model: its masks are the frame's colours, its classes and prototypes follow from the sound."""

    def __init__(self):
        self.traced = 0

    def apply(self, variables, inputs, train, mutable):
        self.traced += 1
        assert set(inputs) == {"frames", "log_mel"} and not train
        masks = jnp.moveaxis(inputs["frames"][:, :, ::4, ::4], -1, 2)[None]
        heard = inputs["log_mel"].reshape(1, 1, -1) + variables["offset"]
        outputs = VCTOutputs(
            class_logits=heard[..., : QUERIES * (CLASSES + 1)].reshape(1, 1, 1, QUERIES, CLASSES + 1),
            mask_logits=masks,
            frame_valid=jnp.ones((1, 1), bool),
            prototype_logits=heard[..., -PROTOTYPES:],
        )
        return outputs, {"intermediates": {}}


@pytest.fixture
def config(tiny_config, tmp_path):
    """S4 and MS3 records side by side in one folder."""
    for task in ("s4", "ms3"):
        write_set(tmp_path, task, {"val": 4})
    tiny_config.data.update(records=str(tmp_path), image_size=SIZE)
    return tiny_config


def test_each_picture_shows_the_first_frame_of_its_clip(config):
    model, variables = Echo(), {"offset": np.float32(0.5)}
    gallery = QueryGallery(config, model)
    drawn = gallery.draw(variables, "val", {"worst_1": 2, "best_1": 0})
    assert list(drawn) == ["worst_1", "best_1"]
    for place, index in (("worst_1", 2), ("best_1", 0)):
        record = make_record("s4", "val", index)
        frame = pixels(record.frames[0])
        found = query_pictures.viewing_step(Echo())(variables, {"frames": frame, "log_mel": record.log_mel[0]})
        expected = query_pictures.panel(
            frame,
            query_pictures.QueryView.of(jax.device_get(found)),
            sounding=query_pictures.heard(index % 3, pixels(record.masks[0]), 1),
            title=f"{place.replace('_', ' ')}: val_{index}, frame 1",
        )
        np.testing.assert_array_equal(drawn[place], expected)
    assert (drawn["worst_1"] != drawn["best_1"]).any()
    again = gallery.draw({"offset": np.float32(-0.5)}, "val", {"best_1": 3})
    assert list(again) == ["best_1"] and model.traced == 1


def test_no_clips_are_no_pictures(config):
    assert QueryGallery(config, Echo()).draw({}, "val", {}) == {}
