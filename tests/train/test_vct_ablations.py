"""The rows of VCT's ablation tables as configuration values: each makes a whole training step, and differs as it says.

Steps are traced, gradients and optimizer included, and not compiled: what the parts compute is tested where they are.
"""

import jax
import pytest

from avs_jax import config as configuration
from avs_jax import models
from avs_jax.train import optimizer
from avs_jax.train import state as states
from avs_jax.train.step import make_train_step
from data_pipeline.batch import example_batch
from tests.integration import tiny_vct

GENERATOR = {"conv_0", "conv_1", "conv_2", "mixer_0", "mixer_1", "mixer_2"}  # visual embeddings
PROMPT = {"prototypes", "prompt", "prompt_norm"}
FUSION = {f"fusion_{i}" for i in range(4)}

# Row: what is changed; parameters of the query generator; of the model beside the usual; whether there is a PAC loss.
ROWS = {
    "VCT": ({}, GENERATOR | PROMPT | {"grouping"}, {"similarity"}, True),
    "audio-centric queries": ({"model.query_generator.name": "audio"}, None, set(), False),
    "naive vision queries": (
        {"model.query_generator.prototypes": 0, "model.query_generator.grouping": "none"}, GENERATOR, set(), False,
    ),
    "prototypes alone": ({"model.query_generator.grouping": "none"}, GENERATOR | PROMPT, {"similarity"}, True),
    "prototypes without PAC": (
        {"model.query_generator.grouping": "none", "loss.pac_weight": 0.0}, GENERATOR | PROMPT, {"similarity"}, False,
    ),
    "grouping alone": ({"model.query_generator.prototypes": 0}, GENERATOR | {"grouping"}, set(), False),
    "softmax grouping": (
        {"model.query_generator.grouping": "softmax"}, GENERATOR | PROMPT | {"grouping"}, {"similarity"}, True,
    ),
    "fusion by products": (
        {"model.fusion": "multiply"}, GENERATOR | PROMPT | {"grouping"}, FUSION | {"similarity"}, True,
    ),
    "fusion by concatenation": (
        {"model.fusion": "concat"}, GENERATOR | PROMPT | {"grouping"}, FUSION | {"similarity"}, True,
    ),
    "the paper's equations": (
        {"model.variant": "paper", "model.decoder.num_layers": 4},
        GENERATOR | {"prototypes", "prompt_value", "grouping"}, set(), True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_a_row_makes_a_training_step(row):
    changes, generator, others, contrast = ROWS[row]
    config = tiny_vct.get_config().unlock()
    config.update_from_flattened_dict(changes)
    configuration.validate(config)
    model, never = models.create(config.model), optimizer.never_trained(config.model)
    tx = optimizer.create(config.optimizer, 10, {}, never)
    batch = example_batch(2, 1, tuple(config.data.image_size), seed=0)
    state = jax.eval_shape(states.init_fn(model, tx, batch, 0, False))
    after, metrics = jax.eval_shape(make_train_step(model, tx, config, never), state, batch)

    assert jax.tree.map(lambda x: (x.shape, x.dtype), after.params) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state.params
    )
    common = {"backbone", "vggish", "audio_mlp_0", "audio_mlp_1", "audio_mlp_2", "pixel_decoder", "decoder"}
    made = {"query_generator"} if generator else set()
    assert set(state.params) == common | made | others
    assert not generator or set(state.params["query_generator"]) == generator
    # Queries of sound look at the image only; others at the sound as well.
    assert len(state.params["decoder"]["level_embed"]) == (4 if generator else 3)
    assert ("pac" in metrics) == contrast and metrics["loss"].shape == ()
