"""VCT's parts and alternatives at small sizes: shapes, what depends on what, gradients, errors."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax import models
from avs_jax.models.vct import VCT, EarlyFusion, PrototypeSimilarity, QueryGenerator
from tests.models.published_vct import published_config
from tests.quick import quick_compilation  # noqa: F401

CLIPS, FRAMES, SIZE, QUERIES, WIDTH = 1, 2, 64, 6, 32


def small_config(**changes):
    """Every part of the model at the smallest size; `changes` may name parts of parts, as in query_generator__name."""
    config = published_config("s4", "resnet50", SIZE)
    config.backbone.update(depths=(1, 1, 1, 1), widths=(4, 4, 8, 8))
    config.vggish.update(widths=(4, 4, 8, 8))
    config.update(pre_masks=False, audio_mlp_dim=16, embed_dim=WIDTH, num_heads=2, num_queries=QUERIES)
    config.pixel_decoder.update(num_layers=1, num_points=2, ffn_dim=16)
    config.query_generator.update(prototypes=3, num_heads=2, hidden_dim=8)
    config.decoder.update(num_layers=2, ffn_dim=16)
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return config


@functools.cache
def inputs():
    rng = np.random.default_rng(0)
    shapes = {"frames": (SIZE, SIZE, 3), "pre_masks": (SIZE, SIZE, 3), "log_mel": (96, 64)}
    return {name: rng.normal(size=(CLIPS, FRAMES, *shape)).astype(np.float32) for name, shape in shapes.items()}


def initialised(config):
    """The model and random variables; the model's own initialisation would have to be compiled."""
    model = VCT(config)
    rng = np.random.default_rng(1)

    def fill(path, x):
        leaf = path[-1].key
        if leaf in ("scale", "var", "logit_scale"):
            return np.ones(x.shape, np.float32)
        if leaf == "bias":
            return np.full(x.shape, 0.5, np.float32)
        fan_in = x.size // x.shape[-1] if leaf == "kernel" else 16
        drawn = rng.normal(size=x.shape).astype(np.float32) / np.sqrt(fan_in)
        return np.abs(drawn) if path[-2].key == "fc1" else drawn  # gates have few units: none shall be dead

    return model, jax.tree_util.tree_map_with_path(fill, jax.eval_shape(model.init, jax.random.key(0), inputs()))


@functools.cache
def small():
    return initialised(small_config())


def forward(model, variables, given, **options):
    return jax.jit(functools.partial(model.apply, **options))(variables, given)


def test_outputs_have_their_shapes():
    model, variables = small()
    outputs = forward(model, variables, inputs())
    assert outputs.class_logits.shape == (3, CLIPS, FRAMES, QUERIES, 3)
    assert outputs.mask_logits.shape == (3, CLIPS, FRAMES, QUERIES, 16, 16)
    assert outputs.prototype_logits.shape == (CLIPS, FRAMES, 3)
    assert outputs.frame_valid.shape == (CLIPS, FRAMES) and outputs.frame_valid.all()
    assert {x.dtype for x in jax.tree.leaves(outputs)} == {np.dtype("float32"), np.dtype("bool")}


def test_it_is_created_by_its_name_and_its_images_are_prepared():
    assert isinstance(models.create(small_config()), VCT)
    pixels = np.full((1, 1, 2, 2, 3), 51, np.uint8)
    prepared = models.prepare({"frames": pixels, "pre_masks": pixels, "category": np.zeros(1)})
    for name in ("frames", "pre_masks"):
        expected = [
            (51 / 255 - mean) / std for mean, std in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)
        ]
        np.testing.assert_allclose(prepared[name][0, 0, 0, 0], expected, rtol=1e-5)
    assert prepared["category"].shape == (1,)


def test_frames_do_not_mix():
    model, variables = small()
    turned = jax.tree.map(lambda x: x[:, ::-1], inputs())
    found, expected = forward(model, variables, turned), forward(model, variables, inputs())
    np.testing.assert_allclose(found.mask_logits, expected.mask_logits[:, :, ::-1], atol=1e-4)


def test_training_draws_groups_and_evaluation_does_not():
    model, variables = small()

    def run(train, seed):
        return model.apply(variables, inputs(), train, rngs={"dropout": jax.random.key(seed)}).mask_logits

    run = jax.jit(run, static_argnums=0)
    assert np.array_equal(run(False, 0), run(False, 1))
    assert not np.array_equal(run(True, 0), run(True, 1)) and np.array_equal(run(True, 0), run(True, 0))


def test_every_parameter_but_vggish_has_a_gradient():
    model, variables = initialised(small_config(pre_masks=True, decoder__num_layers=4))

    @jax.jit
    @jax.grad
    def gradients(params):
        rest = {name: tree for name, tree in variables.items() if name != "params"}
        outputs = model.apply({"params": params, **rest}, inputs(), True, rngs={"dropout": jax.random.key(1)})
        return sum(jnp.mean(jnp.sin(x)) for x in (outputs.class_logits, outputs.mask_logits, outputs.prototype_logits))

    found = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(gradient)
        for path, gradient in jax.tree_util.tree_leaves_with_path(gradients(variables["params"]))
    }
    assert not [name for name, gradient in found.items() if not np.isfinite(gradient).all()]
    assert not [name for name, gradient in found.items() if gradient.any() and name.startswith("vggish/")]
    still = [name for name, gradient in found.items() if not gradient.any() and not name.startswith("vggish/")]
    # What moves all logits of a softmax alike has no gradient, rounding aside.
    assert not [name for name in still if not name.endswith(("key/bias", "grouping/query/bias"))]


def test_bfloat16_is_finite_and_close():
    model, variables = small()
    expected = forward(model, variables, inputs())
    found = forward(VCT(small_config(dtype="bfloat16")), variables, inputs())
    assert found.mask_logits.dtype == jnp.float32
    first = np.asarray(expected.mask_logits[0])
    assert np.linalg.norm(found.mask_logits[0] - first) < 0.1 * np.linalg.norm(first)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))


def test_a_frozen_batch_norm_does_in_training_as_in_evaluation():
    _, variables = small()

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def finest_map(frozen, train):
        model, rngs = VCT(small_config(frozen_batch_norm=frozen)), {"dropout": jax.random.key(0)}
        _, sown = model.apply(variables, inputs(), train, rngs=rngs, mutable=["batch_stats", "intermediates"])
        return sown["intermediates"]["backbone_0"][0]

    np.testing.assert_array_equal(finest_map(True, True), finest_map(True, False))
    assert not np.allclose(finest_map(False, True), finest_map(False, False))


ALTERNATIVES = {
    "paper": {"variant": "paper"},
    "pre-masks": {"pre_masks": True},
    "71 classes": {"num_classes": 71},
    "rematerialised": {"remat": "blocks"},
}


@pytest.mark.parametrize("changes", ALTERNATIVES.values(), ids=ALTERNATIVES)
def test_alternatives(changes):
    config = small_config(decoder__num_layers=5, **changes)
    model = VCT(config)
    variables = jax.eval_shape(model.init, jax.random.key(0), inputs())
    outputs = jax.eval_shape(model.apply, variables, inputs())
    layers = 4 if config.variant == "paper" else 5
    classes = 72 if config.num_classes == 71 else 3
    assert outputs.class_logits.shape == (layers + 1, CLIPS, FRAMES, QUERIES, classes)
    assert outputs.prototype_logits is not None


def test_the_papers_queries_are_its_equations():
    """Q = V^e + softmax(V^e P^T / sqrt(D)) P W_v, then what its pixels give to each query; all from V_2."""
    config = small_config(variant="paper")
    rng = np.random.default_rng(1)
    source, audio = rng.normal(size=(2, 8, 8, 16)).astype(np.float32), np.zeros((2, 6, 4, WIDTH), np.float32)
    module = QueryGenerator(config)
    variables = jax.jit(module.init)(jax.random.key(0), source, audio)
    (_, prototypes), sown = module.apply(variables, source, audio, mutable=["intermediates"])
    embeddings = np.float64(sown["intermediates"]["visual_embeddings"][0])
    logits = embeddings @ np.float64(prototypes).T / np.sqrt(WIDTH)
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    value = np.float64(prototypes) @ np.float64(variables["params"]["prompt_value"]["kernel"])
    np.testing.assert_allclose(sown["intermediates"]["prompted"][0], embeddings + weights @ value, atol=1e-5)
    assert variables["params"]["conv_0"]["kernel"].shape == (16, WIDTH)
    assert "prompt_norm" not in variables["params"]


def test_the_papers_similarity_is_an_inner_product():
    rng = np.random.default_rng(4)
    audio, prototypes = rng.normal(size=(2, 6, 4, WIDTH)), rng.normal(size=(3, WIDTH))
    found = PrototypeSimilarity("paper").apply({}, np.float32(audio), np.float32(prototypes))
    np.testing.assert_allclose(found, audio.mean((1, 2)) @ prototypes.T, atol=1e-5)


def test_audio_queries_are_the_mean_token():
    rng = np.random.default_rng(2)
    audio = rng.normal(size=(2, 6, 4, WIDTH)).astype(np.float32)
    module = QueryGenerator(small_config(query_generator__name="audio"))
    queries, prototypes = module.apply({}, np.zeros((2, 8, 8, WIDTH)), audio)
    assert prototypes is None and queries.shape == (2, QUERIES, WIDTH)
    np.testing.assert_allclose(queries, np.broadcast_to(audio.mean((1, 2))[:, None], queries.shape), atol=1e-6)


@pytest.mark.parametrize("kind", ("multiply", "add", "concat"))
def test_early_fusion(kind):
    rng = np.random.default_rng(3)
    feature, audio = rng.normal(size=(2, 4, 4, 8)), rng.normal(size=(2, 6, 4, WIDTH))
    module = EarlyFusion(kind)
    variables = module.init(jax.random.key(0), feature, audio)
    p = jax.tree.map(np.float64, variables["params"])
    token = (audio.mean((1, 2)) @ p["audio"]["kernel"] + p["audio"]["bias"])[:, None, None]
    if kind == "concat":
        both = np.concatenate([feature, np.broadcast_to(token, feature.shape)], -1)
        expected = both @ p["both"]["kernel"] + p["both"]["bias"]
    else:
        expected = feature * token if kind == "multiply" else feature + token
    np.testing.assert_allclose(module.apply(variables, feature, audio), expected, atol=1e-4)


def test_without_pre_masks_in_the_batch_a_model_that_needs_them_says_so():
    with pytest.raises(ValueError, match="pre_masks is on, but the batch has no 'pre_masks'"):
        given = {name: x for name, x in inputs().items() if name != "pre_masks"}
        jax.eval_shape(VCT(small_config(pre_masks=True)).init, jax.random.key(0), given)


@pytest.mark.parametrize(("size", "message"), ((48, "multiples of 32"), (32, "64 pixels at 1/4, .*num_pixels is 256")))
def test_images_of_another_size_are_refused(size, message):
    given = inputs() | {"frames": np.zeros((CLIPS, FRAMES, size, size, 3), np.float32)}
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(VCT(small_config()).init, jax.random.key(0), given)


@pytest.mark.parametrize(
    ("changes", "message"),
    (({"query_generator__name": "text"}, "query_generator.name is 'text'"), ({"fusion": "gate"}, "fusion is 'gate'")),
)
def test_unknown_names_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(VCT(small_config(**changes)).init, jax.random.key(0), inputs())
