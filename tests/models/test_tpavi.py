"""TPAVI: whole models and their parts against the published code, its conversion, its training."""

from __future__ import annotations

import importlib

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax import convert, models
from avs_jax.convert import rules
from avs_jax.convert.tables import parts
from avs_jax.convert.tables import tpavi as table
from avs_jax.models import tpavi
from avs_jax.train import optimizer
from avs_jax.train.state import TrainState
from avs_jax.train.step import make_train_step
from data_pipeline.batch import example_batch

BEFORE_INTERACTION = 2e-4  # absolute, what two correct float32 implementations meet
AFTER_INTERACTION = 5e-4
GRADIENT = 2e-3  # relative l2
WHOLE = {
    "avsbench_r50_ms3_128": ("tpavi_ms3", "resnet50,128"),
    "avsbench_r50_avss_128": ("tpavi_avss", "resnet50,128"),
    "avsbench_pvt_s4_vv_stages01_128": ("tpavi_s4", "pvt_v2_b5,128"),
    "avsbench_pvt_s4": ("tpavi_s4", "pvt_v2_b5,224"),
}
PARAMETERS = {  # facts of the published models: parameters, entries of the state dict
    ("tpavi_s4", "resnet50"): (91_400_961, 630),
    ("tpavi_ms3", "pvt_v2_b5"): (101_320_577, 1190),
    ("tpavi_avss", "resnet50"): (91_402_247, 626),
    ("tpavi_avss", "pvt_v2_b5"): (101_321_863, 1186),
}


def get_config(name, argument):
    return importlib.import_module(f"configs.{name}").get_config(argument)


def model_config(case, name, argument):
    """config.model of a golden whole-model case."""
    config, made = get_config(name, argument).model, case.manifest["config"]
    config.update(
        stages=tuple(made["tpavi_stages"]),
        audio_visual=made["tpavi_va_flag"],
        visual_visual=made["tpavi_vv_flag"],
    )
    return config


def nchw(x):
    return np.moveaxis(np.asarray(x), -1, -3)


def bcthw(x):
    """(B, T, h, w, C) to (B, C, T, h, w)."""
    return np.moveaxis(np.asarray(x), -1, 1)


def run_whole(case, config, variables):
    """Every stored tensor of a whole-model case, in PyTorch's layout."""
    frames = np.moveaxis(case.inputs["frames"], 1, -1)[None]
    inputs = {"frames": frames, "audio_embedding": case.inputs["audio_feature"][None]}
    if "vid_temporal_mask_flag" in case.inputs.manifest:
        inputs["frame_valid"] = case.inputs["vid_temporal_mask_flag"][None] > 0
    model = models.create(config)
    weights = {name: variables[name] for name in ("params", "batch_stats")}
    outputs, state = jax.jit(lambda w, x: model.apply(w, x, mutable="intermediates"))(weights, inputs)
    inner, groups = state["intermediates"]["head"], len(frames[0]) // 5
    found = {f"backbone_{i}": nchw(state["intermediates"][f"backbone_{i}"][0]) for i in range(4)}
    for i in range(4):
        found[f"conv{i + 1}"] = nchw(inner[f"conv{i + 1}"][0])
        found[f"path{i + 1}"] = nchw(inner[f"path{i + 1}"][0])
        found[f"feature_map_{i}"] = nchw(outputs.feature_maps[i][0])
        if i in config.stages:
            found[f"tpavi_b{i + 1}"] = bcthw(inner[f"interaction_{i}"]["audio_visual"][0])
            found[f"audio_fea_{i}"] = outputs.audio_features[i].reshape(groups, 5, -1)
    found["pred"] = nchw(outputs.mask_logits[0])
    return found


@pytest.mark.parametrize("name", WHOLE)
def test_whole_models_equal_the_published_ones_and_give_their_weights_back(name):
    case = golden.load(f"avsbench/{name}")
    config = model_config(case, *WHOLE[name])
    variables = convert.from_torch(case.state_dict, config)
    found = run_whole(case, config, variables)
    assert set(case.outputs) == set(found)
    for key, array in found.items():
        early = key.startswith(("backbone", "conv", "audio_fea"))
        difference = case.check(key, array)
        assert difference.max_abs < (BEFORE_INTERACTION if early else AFTER_INTERACTION), (key, difference)
    restored = convert.to_torch(variables, config)
    assert restored.keys() == case.state_dict.keys()
    assert all(np.array_equal(restored[key], array) for key, array in case.state_dict.items())


@pytest.mark.parametrize("name, backbone", PARAMETERS)
def test_the_state_dict_is_mapped_to_the_last_entry(name, backbone):
    config = get_config(name, backbone).model
    entries = table.entries(config)
    parameters = sum(int(np.prod(entry.shape)) for entry in entries if entry.collection == "params")
    assert (parameters, len(entries)) == PARAMETERS[name, backbone]

    log_mel = np.zeros((1, 5, 96, 64), np.float32)
    inputs = {"frames": np.zeros((1, 5, 32, 32, 3), np.float32), "log_mel": log_mel}
    made = dict(jax.eval_shape(lambda: models.create(config).init(jax.random.key(0), inputs)))
    made["params"].pop("vggish")
    assert {"/".join(p.key for p in path): x.shape for path, x in jax.tree.leaves_with_path(made)} == rules.shapes(
        entries
    )


def module_case(name, entries):
    """A golden case of a part of the model, and its variables by the rules `entries`, whose names start with "part"."""
    case = golden.load(f"avsbench/{name}")
    variables = rules.from_torch({f"part.{key}": array for key, array in case.state_dict.items()}, entries)
    return case, {key: variables[key]["part"] for key in ("params", "batch_stats") if variables[key]}


def nhwc(x):
    return jnp.moveaxis(jnp.asarray(x), 1, -1)


def test_the_interaction_and_its_gradients_equal_the_published_ones():
    config = get_config("tpavi_s4", "").model
    entries = table.interaction(config, "part", "part")
    case, variables = module_case("tpavi", entries)
    statistics = {"batch_stats": variables["batch_stats"]}
    x, audio = nhwc(case.inputs["x"]), jnp.asarray(case.inputs["audio"])
    module = tpavi.StageInteraction(config)

    @jax.jit
    def run(params, x, audio):
        (z, sound), backward = jax.vjp(
            lambda params, x, audio: module.apply({"params": params, **statistics}, x, audio, False), params, x, audio
        )
        return z, sound, backward((nhwc(case.inputs["cotangent"]), jnp.zeros_like(sound)))

    z, sound, (grads, grad_x, grad_audio) = run(variables["params"], x, audio)
    assert case.check("output", bcthw(z)).max_abs < AFTER_INTERACTION
    assert case.check("audio_aligned", sound).max_abs < BEFORE_INTERACTION
    found = {"grad_x": bcthw(grad_x), "grad_audio": grad_audio}
    named = rules.to_torch({"params": {"part": grads}}, entries)
    found |= {f"grad/{key.removeprefix('part.')}": array for key, array in named.items()}
    for key in [key for key in case.outputs if key.startswith("grad")]:
        assert case.check(key, found[key]).rel_l2 < GRADIENT, key


def test_pixels_looking_at_pixels_equal_the_published_mode():
    config = get_config("tpavi_s4", "").model
    case, variables = module_case("tpavi", table.interaction(config, "part", "part"))
    config.update(audio_visual=False, visual_visual=True)
    module, audio = tpavi.StageInteraction(config), jnp.asarray(case.inputs["audio"])
    z, sound = jax.jit(lambda v, x: module.apply(v, x, audio, False))(variables, nhwc(case.inputs["x"]))
    assert sound is None
    assert case.check("output_vv", bcthw(z)).max_abs < AFTER_INTERACTION


def test_batch_norm_in_training_equals_the_published_one():
    config = get_config("tpavi_s4", "").model
    case, variables = module_case("tpavi", table.interaction(config, "part", "part"))
    module, audio = tpavi.StageInteraction(config), jnp.asarray(case.inputs["audio"])
    run = jax.jit(lambda v, x: module.apply(v, x, audio, True, mutable=["batch_stats"]))
    (z, _), state = run(variables, nhwc(case.inputs["x"]))
    assert case.check("output_train_batchnorm", bcthw(z)).max_abs < AFTER_INTERACTION
    running = state["batch_stats"]["tpavi"]["norm"]
    assert case.check("after_train/W_z.1.running_mean", running["mean"]).max_abs < 1e-5
    assert case.check("after_train/W_z.1.running_var", running["var"]).max_abs < 1e-5


def test_the_interaction_is_the_quadratic_one_of_the_paper():
    """Every pixel against every pixel's sound, as the equation has it, in float64."""
    rng = np.random.default_rng(0)
    module = tpavi.PixelwiseInteraction(inter_dim=4)
    x, sound = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 3, 2, 4, 6), (2, 3, 6)))
    variables = jax.jit(lambda x, sound: module.init(jax.random.key(0), x, sound, False))(x, sound)
    variables["params"]["norm"]["scale"] = np.linspace(0.5, 2, 6)  # a fresh one hides the interaction
    z = jax.jit(lambda v, x, sound: module.apply(v, x, sound, False))(variables, x, sound)

    weights = jax.tree.map(lambda w: np.asarray(w, np.float64), variables["params"])

    def dense(name, x):
        return x @ weights[name]["kernel"] + weights[name]["bias"]

    pixels, spread = x.reshape(2, 24, 6), np.repeat(sound, 8, axis=1)
    alpha = dense("theta", pixels) @ dense("phi", spread).transpose(0, 2, 1) / 24
    y = dense("W_z", alpha @ dense("g", pixels)) / np.sqrt(1 + 1e-5) * weights["norm"]["scale"] + pixels
    y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(np.asarray(z).reshape(2, 24, 6), y, atol=1e-5)


def test_the_fusion_block_equals_the_published_one():
    units = [("resConfUnit1", "unit1"), ("resConfUnit2", "unit2")]
    entries = [
        entry
        for theirs, ours in units
        for n in (1, 2)
        for entry in parts.conv(f"part.{theirs}.conv{n}", f"part/{ours}/conv{n}", 32, 32, 3)
    ]
    case, variables = module_case("feature_fusion_block", entries)
    x, skip = nhwc(case.inputs["x"]), nhwc(case.inputs["skip"])
    unit, block = tpavi.ResidualUnit(), tpavi.FusionBlock()
    found = {
        "unit": jax.jit(unit.apply)({"params": variables["params"]["unit1"]}, skip),
        "one_input": jax.jit(block.apply)(variables, x),
        "two_inputs": jax.jit(block.apply)(variables, skip, x),
        "skip_after": jax.nn.relu(skip),
    }
    assert set(found) == set(case.outputs)
    for key, array in found.items():
        assert case.check(key, nchw(array)).max_abs < BEFORE_INTERACTION, key


def test_the_dilated_head_equals_the_published_one():
    entries = [
        entry
        for k, dilation in enumerate(tpavi.DILATIONS)
        for entry in parts.conv(f"part.conv2d_list.{k}", f"part/conv_{dilation}", 24, 16, 3)
    ]
    case, variables = module_case("classifier_module", entries)
    y = jax.jit(tpavi.DilatedHead(16).apply)(variables, nhwc(case.inputs["x"]))
    assert case.check("output", nchw(y)).max_abs < BEFORE_INTERACTION


def small_config(task="s4", **changes):
    """The whole configuration of a task with every width small."""
    config = get_config(f"tpavi_{task}", "resnet50,32")
    config.model.backbone.update(depths=(1, 1, 1, 1), widths=(2, 3, 4, 5))
    config.model.vggish.update(widths=(2, 2, 3, 3), hidden_dim=8, embedding_dim=7)
    config.model.update(embed_dim=8, inter_dim=4, tail_dims=(6, 5))
    config.model.update(**changes)
    return config


def small_batch(clips=2, frames=5, num_classes=1):
    return example_batch(clips, frames, (32, 32), num_classes, seed=0)


def random_variables(model, inputs):
    """Weights of unit gain, quicker than the model's own to make, and with interactions that are switched on."""
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        match path[-1].key:
            case "kernel":
                return rng.normal(size=leaf.shape).astype(np.float32) / np.sqrt(np.prod(leaf.shape[:-1]))
            case "scale" | "var":
                return np.ones(leaf.shape, np.float32)
        return np.zeros(leaf.shape, np.float32)

    return jax.tree.map_with_path(fill, jax.eval_shape(lambda: model.init(jax.random.key(0), inputs)))


def run_small(config, *batches):
    """Outputs of a small model with random weights, for each of the batches."""
    model, inputs = models.create(config.model), [models.prepare(batch) for batch in batches]
    variables, run = random_variables(model, inputs[0]), jax.jit(model.apply)
    return [run(variables, x) for x in inputs]


def test_fresh_weights_are_the_published_ones():
    """Dilated heads normal(0, 0.01); an interaction is the identity but for its layer norm; PyTorch's defaults else."""
    x = jnp.zeros((1, 2, 2, 20))
    kernel = jax.jit(tpavi.DilatedHead(64).init)(jax.random.key(0), x)["params"]["conv_12"]["kernel"]
    np.testing.assert_allclose([kernel.mean(), kernel.std()], [0, 0.01], atol=3e-4)
    unit = jax.jit(tpavi.ResidualUnit().init)(jax.random.key(0), x)["params"]
    bound = 1 / np.sqrt(9 * 20)
    assert 0.95 * bound < np.abs(unit["conv1"]["kernel"]).max() <= bound

    module, x = tpavi.PixelwiseInteraction(4), np.random.default_rng(0).normal(size=(1, 5, 2, 2, 8)).astype(np.float32)
    z, _ = jax.jit(lambda x: module.init_with_output(jax.random.key(0), x, x[:, :, 0, 0], False))(x)
    alone = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(z, alone, atol=1e-5)


def test_frames_that_are_not_valid_are_zero_and_unheard():
    config = small_config("avss")
    batch = small_batch(frames=10, num_classes=71)
    batch["frame_valid"][:, 7:] = False
    masked = (np.arange(10) < 7)[:, None, None]
    blank = {"frames": batch["frames"] * masked[..., None].astype(np.uint8), "log_mel": batch["log_mel"] * masked}
    outputs, of_blank = run_small(config, batch, batch | blank)
    assert outputs.mask_logits.shape == (2, 10, 32, 32, 71)
    assert outputs.mask_features.shape == (2, 10, 16, 16, 8)
    assert [x.shape for x in outputs.feature_maps] == [(2, 10, s, s, 8) for s in (8, 4, 2, 1)]
    assert [x.shape for x in outputs.audio_features] == 4 * [(2, 10, 8)]
    assert all(not x[:, 7:].any() for x in jax.tree.leaves(outputs))
    np.testing.assert_array_equal(outputs.mask_logits, of_blank.mask_logits)


def test_frames_interact_in_fives_as_released_and_all_in_the_paper():
    batch = small_batch(frames=10)
    other = batch | {"log_mel": batch["log_mel"] + np.float32(3) * (np.arange(10) == 9)[:, None, None]}
    for variant, first_half_changes in (("released", False), ("paper", True)):
        config = small_config(variant=variant)
        outputs, of_other = run_small(config, batch, other)
        change = outputs.mask_logits - of_other.mask_logits
        assert np.abs(change[:, 5:9]).max() > 0
        assert bool(np.abs(change[:, :5]).max() > 0) == first_half_changes


def test_without_sound_nothing_is_heard():
    config = small_config(audio_visual=False, visual_visual=True, stages=(1, 3))
    batch = small_batch()
    outputs, other = run_small(config, batch, batch | {"log_mel": batch["log_mel"] + 1})
    assert outputs.audio_features == (None,) * 4
    np.testing.assert_array_equal(outputs.mask_logits, other.mask_logits)


def test_a_silent_mode_has_dead_weights_to_give_back():
    config = small_config(audio_visual=False, visual_visual=True, stages=(1, 3)).model
    state_dict = {
        entry.source: np.ones(entry.shape, getattr(entry, "dtype", np.float32)) for entry in table.entries(config)
    }
    restored = convert.to_torch(convert.from_torch(state_dict, config), config)
    assert all(np.array_equal(restored[name], array) for name, array in state_dict.items())


def test_bfloat16_gives_float32_outputs():
    [outputs] = run_small(small_config(dtype="bfloat16"), small_batch())
    assert {x.dtype for x in jax.tree.leaves(outputs)} == {jnp.dtype("float32")}
    [exact] = run_small(small_config(), small_batch())
    np.testing.assert_allclose(outputs.mask_logits, exact.mask_logits, atol=0.05)


@pytest.mark.parametrize(
    "changes, batch, message",
    [
        ({}, {"frames": 4}, "4 frames a clip; config.model.variant='released' takes multiples of 5"),
        ({"audio_visual": False}, {}, "config.model.stages needs audio_visual=True or visual_visual=True"),
    ],
)
def test_what_cannot_be_run_is_named(changes, batch, message):
    model, inputs = models.create(small_config(**changes).model), models.prepare(small_batch(**batch))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: model.init(jax.random.key(0), inputs))


def test_the_size_of_the_frames_is_checked():
    model = models.create(small_config().model)
    with pytest.raises(ValueError, match="frames of 48 x 32 pixels; both sizes must be multiples of 32"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), {"frames": jnp.zeros((1, 5, 48, 32, 3))}))


def test_training_lowers_the_loss():
    config = small_config("avss")
    config.optimizer.learning_rate = 1e-2
    batch = small_batch(frames=10, num_classes=71)
    batch["frame_valid"][0, 5:] = batch["mask_valid"][0, 1:] = False
    batch["masks"] = np.zeros_like(batch["masks"])
    batch["masks"][..., 8:24, 8:24] = 1
    model, tx = models.create(config.model), optimizer.create(config.optimizer, 10, {}, never=("vggish",))
    variables = random_variables(model, models.prepare(batch))
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        model_state={"batch_stats": variables["batch_stats"]},
        opt_state=tx.init(variables["params"]),
        ema_params={},
        rng=jax.random.key_data(jax.random.key(0)),
    )
    step = jax.jit(make_train_step(model, tx, config, frozen=("vggish",)))
    losses = []
    for _ in range(10):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert metrics["avm"] > 0
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.9 * losses[0]
