"""AVSegFormer at small widths: what it promises, the paper's equations, every switch."""

from __future__ import annotations

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax import models
from avs_jax.layers import attention as attention_layer
from avs_jax.layers import blocks
from avs_jax.layers import dropout as dropout_layer
from avs_jax.models import avsegformer
from avs_jax.models.outputs import AVSegFormerOutputs
from tests.models.published_avsegformer import published_config
from tests.quick import quick_compilation  # noqa: F401


def small_config(**changes):
    """The same with one layer of each kind and small widths, without dropout."""
    sizes = dict(embed_dim=32, num_heads=4, num_queries=6, mlp_dim=24, tail_dims=(12, 8), encoder__num_points=2)
    layers = {f"{part}__num_layers": 1 for part in ("query_generator", "encoder", "decoder")}
    hidden = dict(query_generator__ffn_dim=20, encoder__ffn_dim=28, decoder__ffn_dim=36)
    encoders = dict(backbone__depths=(1, 1, 1, 1), backbone__widths=(2, 3, 4, 5), vggish__widths=(2, 2, 3, 3))
    audio = dict(vggish__hidden_dim=8, vggish__embedding_dim=7)
    dropout = dict(encoder__dropout=0.0, decoder__dropout=0.0)
    return published_config(**(sizes | layers | hidden | encoders | audio | dropout | changes))


def batch(clips=2, frames=2, height=32, width=64, sound="audio_embedding"):
    """A random batch; with embeddings of the sound, unless the test is about VGGish, which then takes "log_mel"."""
    rng = np.random.default_rng(0)
    shape = {"audio_embedding": (7,), "log_mel": (96, 64)}[sound]
    return {
        "frames": rng.integers(0, 256, (clips, frames, height, width, 3), np.uint8),
        sound: rng.standard_normal((clips, frames, *shape)).astype(np.float32),
    }


def random_variables(module, *arguments):
    """Variables of which none is zero or one, as fresh ones are: nothing can hide."""
    shapes = jax.eval_shape(lambda: module.init({"params": jax.random.key(0)}, *arguments))
    rng = np.random.default_rng(1)

    def value(path, leaf):
        if path[-1].key in ("scale", "var"):
            return np.float32(rng.uniform(0.5, 1.5, leaf.shape))
        scale = 0.1 if leaf.ndim == 1 else 1 / np.sqrt(np.prod(leaf.shape[:-1]))
        return np.float32(scale * rng.standard_normal(leaf.shape))

    return jax.tree_util.tree_map_with_path(value, shapes)


def small_head(**changes):
    """A head, variables for it, and its inputs: maps of a 32 x 64 image and audio tokens, for two frames."""
    rng = np.random.default_rng(2)
    shapes = [(2, 8, 16, 8), (2, 4, 8, 12), (2, 2, 4, 16), (2, 1, 2, 20)]
    maps = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    audio = rng.standard_normal((2, 1, 32)).astype(np.float32)
    head = avsegformer.AVSegHead(small_config(**changes))
    return head, random_variables(head, maps, audio), (maps, audio)


@pytest.fixture(scope="module")
def small():
    """The whole model, compiled, with variables and inputs."""
    model, inputs = models.create(small_config()), models.prepare(batch()) | {"frame_valid": np.ones((2, 2), bool)}
    return jax.jit(model.apply), random_variables(model, inputs), inputs


def test_outputs_have_the_promised_shapes(small):
    apply, variables, inputs = small
    outputs = apply(variables, inputs)
    assert outputs.mask_logits.shape == (2, 2, 32, 64, 1)
    assert outputs.mask_features.shape == (2, 2, 8, 16, 32)
    assert outputs.mix_logits is None
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(outputs))


def test_frames_do_not_interact(small):
    apply, variables, inputs = small

    def backwards(x):  # clips, and frames within them
        return x[::-1, ::-1]

    forwards = apply(variables, inputs).mask_logits
    np.testing.assert_allclose(
        apply(variables, jax.tree.map(backwards, inputs)).mask_logits, backwards(forwards), atol=1e-5
    )


def test_clips_are_as_long_as_the_data_says():
    inputs = models.prepare(batch(1, 3))
    outputs, _ = jax.eval_shape(lambda: models.create(small_config()).init_with_output(jax.random.key(0), inputs))
    assert outputs.mask_logits.shape == (1, 3, 32, 64, 1)


def test_invalid_frames_are_zero_and_change_nothing_else(small):
    apply, variables, inputs = small
    valid = np.array([[True, False], [True, True]])
    everything, masked = apply(variables, inputs), apply(variables, inputs | {"frame_valid": valid})
    for whole, part in zip(jax.tree.leaves(everything), jax.tree.leaves(masked), strict=True):
        np.testing.assert_allclose(part[valid], whole[valid], atol=1e-5)
        assert not np.any(part[~valid])
    assert np.all(apply(variables, inputs | {"frame_valid": ~valid}).mask_logits[valid] == 0)


def test_a_precomputed_audio_embedding_replaces_vggish(small):
    model, inputs = models.create(small_config()), models.prepare(batch(sound="log_mel"))
    variables = random_variables(model, inputs)
    hear = jax.jit(functools.partial(model.apply, mutable=["intermediates"], method="audio_tokens"))
    tokens, state = hear(variables, inputs)
    (embedding,) = state["intermediates"]["audio_embedding"]
    assert "vggish" not in small[1]["params"]
    params = {"audio_proj": variables["params"]["audio_proj"]}
    skipped, _ = hear({"params": params}, {"audio_embedding": embedding.reshape(2, 2, 7)})
    np.testing.assert_allclose(skipped, tokens, atol=1e-6)


def test_every_intermediate_of_the_goldens_is_sown(small):
    _, variables, inputs = small
    state = jax.eval_shape(lambda: models.create(small_config()).apply(variables, inputs, mutable=["intermediates"]))[1]
    names = {path[-2].key for path, _ in jax.tree_util.tree_leaves_with_path(state["intermediates"])}
    wanted = (
        "audio_embedding audio_feat backbone_0 backbone_3 in_proj_0 in_proj_3 query_generator_0 encoder_0 decoder_0"
    )
    assert names >= {*wanted.split(), *"lateral out_conv gate mlp fc_0 mask_feature pred".split()}


def test_everything_in_the_head_learns_except_what_meets_a_single_key():
    head, variables, inputs = small_head()

    def loss(variables, inputs):
        return jnp.sum(head.apply(variables, *inputs).mask_logits ** 2)

    gradient, input_gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(variables, inputs)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(input_gradients))
    leaves = jax.tree_util.tree_leaves_with_path(gradient["params"])
    still = {"/".join(key.key for key in path) for path, leaf in leaves if not np.any(leaf)}
    assert still == {f"query_generator/layers/cross_attn/{name}/kernel" for name in ("query", "key")}


@pytest.mark.parametrize("frozen", (True, False))
def test_vggish_learns_unless_frozen(frozen):
    model, inputs = models.create(small_config(vggish__frozen=frozen)), models.prepare(batch(sound="log_mel"))
    variables = random_variables(model, inputs)

    def loss(params):
        return jnp.sum(model.apply({"params": params}, inputs, method="audio_tokens") ** 2)

    params = {name: variables["params"][name] for name in ("vggish", "audio_proj")}
    gradient = jax.jit(jax.grad(loss))(params)
    assert all(np.any(leaf) for leaf in gradient["audio_proj"].values())
    assert any(np.any(leaf) for leaf in jax.tree.leaves(gradient["vggish"])) != frozen


def test_bfloat16_runs_on_float32_parameters(small):
    apply, variables, inputs = small
    exact = apply(variables, inputs)
    model = models.create(small_config(dtype="bfloat16"))
    fresh = jax.eval_shape(lambda: model.init({"params": jax.random.key(0)}, inputs))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(fresh))
    rounded = jax.jit(model.apply)(variables, inputs)
    for name in ("mask_logits", "mask_features"):
        mine, reference = getattr(rounded, name), getattr(exact, name)
        assert mine.dtype == jnp.float32
        # 8 bits a number: a few per cent of the spread, accumulated through some forty layers.
        assert np.linalg.norm(mine - reference) < 0.05 * np.linalg.norm(reference - np.mean(reference)), name


def test_gradients_in_bfloat16_are_near_those_in_float32(small):
    _, variables, inputs = small
    found = {}
    for dtype in ("float32", "bfloat16"):
        model = models.create(small_config(dtype=dtype))

        def loss(params, model=model):
            outputs = model.apply({**variables, "params": params}, inputs)
            return jnp.mean(jnp.square(outputs.mask_logits - 1))

        found[dtype] = jax.jit(jax.grad(loss))(variables["params"])
    for part in ("head", "audio_proj"):  # a backbone of two to five channels amplifies rounding
        exact, rounded = (np.concatenate([x.ravel() for x in jax.tree.leaves(found[d][part])]) for d in found)
        assert rounded.dtype == np.float32
        assert 0 < np.linalg.norm(rounded - exact) < 0.1 * np.linalg.norm(exact), part


# Dropout, initialisation.


def test_dropout_acts_where_published(monkeypatch):
    """Encoder: attention, feed-forward twice. Decoder: attention weights, attentions, feed-forward twice. No more."""
    config = small_config(encoder__dropout=0.1, decoder__dropout=0.2)
    inputs = models.prepare(batch(1))
    model = models.create(config)
    found = []

    def record(x, rate, seed):
        found.append((rate, x.shape))
        return x

    monkeypatch.setattr(dropout_layer, "drop", record)
    monkeypatch.setattr(attention_layer, "drop", record)
    monkeypatch.setattr(blocks, "drop", record)
    jax.eval_shape(lambda: model.init({"params": jax.random.key(0), "dropout": jax.random.key(0)}, inputs, train=True))
    frames, tokens, queries = 2, 4 * 8 + 2 * 4 + 1 * 2, 6
    encoder = [(0.1, (frames, tokens, features)) for features in (32, 28, 32)]
    weights = [(0.2, (frames, 4, queries, keys)) for keys in (queries, tokens)]
    decoder = [(0.2, (frames, queries, features)) for features in (32, 32, 36, 32)]
    # The other forms: attention by heads, feed-forwards by frames.
    in_loops = [(0.2, (queries, keys)) for keys in (queries, tokens)] + [(0.1, (tokens, 28)), (0.2, (queries, 36))]
    assert collections.Counter(found) == collections.Counter(encoder + weights + decoder + in_loops)


def test_training_draws_dropout_and_updates_batch_statistics(small):
    _, variables, inputs = small
    model = models.create(small_config(encoder__dropout=0.1, decoder__dropout=0.1))
    train = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
    (first, updated), (second, _) = (
        train(variables, inputs, rngs={"dropout": jax.random.key(seed)}) for seed in range(2)
    )
    assert np.max(np.abs(first.mask_logits - second.mask_logits)) > 1e-3
    moved = jax.tree.map(lambda a, b: np.any(a != b), updated["batch_stats"], variables["batch_stats"])
    assert all(jax.tree.leaves(moved))


def test_initialisation_is_the_published_one():
    """Xavier uniform of every kernel and embedding, some stacked as PyTorch keeps them; PyTorch's default biases."""
    config = small_config(
        embed_dim=128, num_queries=50, query_generator__ffn_dim=96, decoder__ffn_dim=80, num_heads=8, variant="released"
    )
    maps, audio = (
        [np.zeros((1, size, size, 20), np.float32) for size in (8, 4, 2, 1)],
        np.zeros((1, 1, 128), np.float32),
    )
    key = jax.random.key(0, impl="rbg")  # far quicker to compile than the default
    head = jax.jit(lambda: avsegformer.AVSegHead(config).init({"params": key}, maps, audio))()["params"]

    def bounded(leaf, bound):
        leaf = np.abs(leaf)
        return 0.9 * bound < leaf.max() <= bound and abs(leaf.mean() / bound - 0.5) < 1.5 / np.sqrt(leaf.size)

    def xavier(fan_in, fan_out):
        return np.sqrt(6 / (fan_in + fan_out))

    generator, decoder = head["query_generator"], head["decoder"]["layers"]
    assert bounded(head["learnable_query"], xavier(50, 128))
    assert bounded(generator["query"], xavier(50, 128))
    for layer in (generator["layers"], decoder):
        for name in ("self_attn", "cross_attn"):
            assert bounded(layer[name]["key"]["kernel"], xavier(128, 3 * 128))
            assert bounded(layer[name]["out"]["kernel"], xavier(128, 128))
    assert "bias" not in generator["layers"]["self_attn"]["query"]
    assert not np.any(decoder["self_attn"]["query"]["bias"])
    assert not np.any(decoder["cross_attn"]["out"]["bias"])
    assert bounded(decoder["ffn"]["linear1"]["kernel"], xavier(128, 80))
    assert bounded(decoder["ffn"]["linear1"]["bias"], 1 / np.sqrt(128))
    assert bounded(head["mixer"]["value"]["kernel"], xavier(128, 2 * 128))
    assert bounded(head["mixer"]["query"]["kernel"], xavier(128, 128))
    assert bounded(head["mixer"]["out"]["bias"], 1 / np.sqrt(128))
    assert bounded(head["mask_feature"]["output_conv"]["kernel"], xavier(9 * 128, 9 * 128))
    assert bounded(head["mask_feature"]["output_conv"]["bias"], 1 / np.sqrt(9 * 128))
    assert bounded(head["predictor"]["mlp_0"]["kernel"], xavier(50, 24))
    assert bounded(head["input_conv_3"]["kernel"], xavier(20, 128))
    assert abs(np.std(head["encoder"]["level_embed"]) - 1) < 0.15
    for name in ("norm1", "norm3"):
        np.testing.assert_array_equal(decoder[name]["scale"], 1)
        np.testing.assert_array_equal(decoder[name]["bias"], 0)


# The paper's equations and the switches of its table 2.


def attention(query, key, value, heads):
    """Float64 softmax(q k^T / sqrt(D / heads)) v, head by head; query (Q, D), key and value (K, D)."""
    parts = []
    for q, k, v in zip(*(np.split(np.float64(x), heads, axis=-1) for x in (query, key, value)), strict=True):
        weights = np.exp(q @ k.T / np.sqrt(q.shape[-1]))
        parts.append(weights / weights.sum(-1, keepdims=True) @ v)
    return np.concatenate(parts, -1)


@pytest.fixture(scope="module")
def mixed():
    """A mask feature (N, h, w, D), an audio token (N, 1, D), and kernels."""
    rng = np.random.default_rng(0)
    feature, audio = rng.standard_normal((2, 3, 5, 32)), rng.standard_normal((2, 1, 32))
    kernels = {name: {"kernel": rng.standard_normal((32, 32)) / 6} for name in ("query", "key", "value", "out")}
    return feature, audio, kernels


def test_the_paper_s_channel_mixer_follows_equations_2_and_3(mixed):
    feature, audio, kernels = mixed
    kernels = {name: kernels[name] for name in ("query", "key", "value")}
    w = {name: kernels[name]["kernel"] for name in kernels}
    pixels = feature.reshape(2, 15, 32)
    omega = [attention(a @ w["query"], p @ w["key"], p @ w["value"], 4) for a, p in zip(audio, pixels, strict=True)]
    expected = feature + feature * np.array(omega)[:, None]
    mixer = avsegformer.ChannelMixer(4, "paper", jnp.float32)
    found = mixer.apply({"params": kernels}, np.float32(feature), np.float32(audio))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_cross_attention_mixer_lets_every_pixel_ask_the_audio(mixed):
    feature, audio, kernels = mixed
    audio = np.concatenate([audio, -2 * audio], axis=1)  # two tokens, so that the softmax has a choice
    w = {name: kernels[name]["kernel"] for name in kernels}
    pixels = feature.reshape(2, 15, 32)
    update = [
        attention(p @ w["query"], a @ w["key"], a @ w["value"], 4) @ w["out"]
        for a, p in zip(audio, pixels, strict=True)
    ]
    mixer = avsegformer.CrossAttentionMixer(4, jnp.float32)
    found = mixer.apply({"params": {"attention": kernels}}, np.float32(feature), np.float32(audio))
    np.testing.assert_allclose(found, feature + np.reshape(update, feature.shape), atol=1e-5)


@pytest.mark.parametrize("mixer", ("channel", "cross", "none"))
def test_the_paper_s_mixing_loss_sees_a_linear_integration_of_the_mixed_feature(mixer):
    no_layers = {f"{part}__num_layers": 0 for part in ("query_generator", "encoder", "decoder")}
    head, variables, inputs = small_head(variant="paper", mixer=mixer, **no_layers)
    outputs, state = jax.jit(functools.partial(head.apply, mutable=["intermediates"]))(variables, *inputs)
    params = variables["params"]
    assert outputs.mix_logits.shape == (2, 8, 16, 1)
    expected = np.float64(outputs.mask_features) @ params["mix_proj"]["kernel"] + params["mix_proj"]["bias"]
    np.testing.assert_allclose(outputs.mix_logits, expected, atol=1e-5)
    (unmixed,) = state["intermediates"]["mask_feature"]["out_conv"]
    assert np.array_equal(outputs.mask_features, unmixed) == (mixer == "none")
    parts = {"channel": {"query", "key", "value"}, "cross": {"attention"}, "none": set()}
    assert set(params.get("mixer", {})) == parts[mixer]


def shapes_of(config):
    inputs = models.prepare(batch(1, 1))
    return jax.eval_shape(lambda: models.create(config).init({"params": jax.random.key(0)}, inputs))["params"]["head"]


def test_the_number_of_queries_is_a_choice():
    head = shapes_of(small_config(num_queries=11))
    assert head["learnable_query"].shape == head["query_generator"]["query"].shape == (11, 32)
    assert head["predictor"]["mlp_0"]["kernel"].shape == (11, 24)


def test_learnable_queries_can_be_left_out():
    with_them, without = shapes_of(small_config()), shapes_of(small_config(learnable_queries=False))
    assert with_them.keys() - without.keys() == {"learnable_query"}


def test_the_repeating_generator_repeats_the_audio_token():
    generator = avsegformer.QueryGenerator(small_config(query_generator__name="repeat"))
    audio = np.random.default_rng(0).standard_normal((2, 1, 32)).astype(np.float32)
    np.testing.assert_array_equal(generator.apply({}, audio), np.repeat(audio, 6, axis=1))
    assert "query_generator" not in shapes_of(small_config(query_generator__name="repeat"))


# Inputs, scores, errors.


def test_prepare_normalises_frames_and_passes_the_rest():
    given = batch(1, 1, 4, 4) | {"masks": np.zeros((1, 1, 4, 4), np.uint8)}
    inputs = jax.jit(models.prepare)(given)
    expected = (given["frames"] / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(inputs["frames"], expected, atol=1e-5)
    assert inputs["frames"].dtype == jnp.float32
    assert set(inputs) == set(given)
    np.testing.assert_array_equal(inputs["masks"], given["masks"])


@pytest.mark.parametrize("classes", (1, 3))
def test_scores_are_probabilities_of_the_asked_size(classes):
    logits = np.random.default_rng(0).standard_normal((1, 2, 4, 6, classes)).astype(np.float32)
    outputs = AVSegFormerOutputs(logits, np.zeros((1, 2, 1, 1, 8), np.float32))
    same = models.semantic_scores(outputs, (4, 6))
    odds = np.exp(np.float64(logits))
    expected = odds / (1 + odds) if classes == 1 else odds / odds.sum(-1, keepdims=True)
    np.testing.assert_allclose(same, expected, atol=1e-6)
    larger = models.semantic_scores(outputs, (8, 9))
    assert larger.shape == (1, 2, 8, 9, classes)
    assert larger.dtype == jnp.float32
    if classes > 1:
        np.testing.assert_allclose(np.sum(larger, -1), 1, atol=1e-6)


@pytest.mark.parametrize(("key", "message"), (("name", "config.model.name"), ("mixer", "config.model.mixer")))
def test_unknown_choices_are_named(key, message):
    with pytest.raises(ValueError, match=f"{message} is 'unheard'"):
        shapes_of(small_config(**{key: "unheard"}))


def test_image_sizes_that_do_not_fit_are_named():
    inputs = models.prepare(batch(1, 1, 30, 64))
    with pytest.raises(ValueError, match="30 x 64"):
        jax.eval_shape(lambda: models.create(small_config()).init({"params": jax.random.key(0)}, inputs))


def test_any_multiple_of_four_is_a_size_for_resnet():
    inputs = models.prepare(batch(1, 1, 36, 44))
    model = models.create(small_config())
    outputs = jax.eval_shape(lambda: model.init_with_output({"params": jax.random.key(0)}, inputs)[0])
    assert outputs.mask_logits.shape == (1, 1, 36, 44, 1)
