"""Packed frames: the same loss, the same gradients, the same figures as whole clips."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from avs_jax import losses, models
from avs_jax.losses import points, vct
from avs_jax.models.outputs import AVSegFormerOutputs, VCTOutputs
from avs_jax.train import evaluate
from avs_jax.train import state as states
from avs_jax.train.gallery import Gallery
from avs_jax.train.step import make_train_step
from data_pipeline import packing
from data_pipeline.batch import FIELDS, example_batch
from tests.integration import tiny_vct
from tests.integration.test_tasks import tiny_task

CLIPS, FRAMES, SIZE = 2, 3, 64


def avsegformer(task):
    config = tiny_task(task, "")
    config.model.backbone.update(name="pvt_v2_b0", widths=(8, 8, 20, 16), drop_path=0.0)
    config.model.encoder.dropout = config.model.decoder.dropout = 0.0
    return config


def vct_of_frozen_batch_norm():
    config = tiny_vct.get_config().unlock()
    config.model.frozen_batch_norm = True
    config.model.query_generator.grouping = "softmax"  # without Gumbel's noise
    config.loss.update(frames="all", pac_target="category", pac_weight=1.0)
    return config


CASES = {
    "avsegformer s4": lambda: avsegformer("s4"),
    "avsegformer ms3": lambda: avsegformer("ms3"),
    "avsegformer avss": lambda: avsegformer("avss"),
    "vct": vct_of_frozen_batch_norm,
}


def some_annotated(config):
    """A clip with one annotated frame, and one whose last is padding and whose second is not annotated."""
    made = example_batch(CLIPS, FRAMES, (SIZE, SIZE), config.model.num_classes, seed=1)
    made["mask_valid"][:] = [[1, 0, 0], [1, 0, 0] if config.loss.frames == "first" else [1, 0, 1]]
    made["frame_valid"][1, 2] = False  # annotated all the same, so it is part of the mean
    made["category"][:] = [3, 5]
    return made


def every_frame(made):
    """The frames of a batch in their places, each as a clip of its own."""
    found = {
        name: value.reshape(-1, 1, *value.shape[2:]) if "T" in FIELDS[name].axes else np.repeat(value, FRAMES)
        for name, value in made.items()
    }
    return found | {"frame_index": np.tile(np.arange(FRAMES, dtype=np.int32), CLIPS)}


def with_other_frames(packed, number, seed):
    """A packed batch, filled up with frames that have nothing to do with it."""
    others = example_batch(number, 1, (SIZE, SIZE), 2, seed=seed) | {"frame_index": np.zeros(number, np.int32)}
    others["mask_valid"][:] = False
    return {name: np.concatenate([value, others[name]]) for name, value in packed.items()}


@pytest.fixture
def alike(monkeypatch):
    """The same random points for every frame, so that frames can change places."""

    def draw(rng, frames, targets, config, layer):
        one = points.draw(jax.random.fold_in(rng, layer), 1, targets, config)
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (frames, *x.shape[1:])), one)

    monkeypatch.setattr(vct, "_draw", draw)


def random_outputs(config):
    """What a model may say of CLIPS x FRAMES frames."""
    draw, c, low = np.random.default_rng(2), config.model, SIZE // 4

    def normal(*shape):
        return draw.normal(size=shape).astype(np.float32)

    if c.name == "vct":
        layers, clips = 2, (CLIPS, FRAMES)
        return VCTOutputs(
            normal(layers, *clips, c.num_queries, 3),
            normal(layers, *clips, c.num_queries, low, low),
            np.ones(clips, bool),
            normal(*clips, c.query_generator.prototypes),
        )
    masks = normal(CLIPS, FRAMES, SIZE, SIZE, c.num_classes)
    return AVSegFormerOutputs(masks, np.abs(normal(CLIPS, FRAMES, low, low, 8)))


def at(outputs, clips, frames):
    """The outputs of packed frames."""
    layered = ("class_logits", "mask_logits") if isinstance(outputs, VCTOutputs) else ()
    found = jax.tree.map(lambda x: x[clips, frames][:, None], outputs.replace(**dict.fromkeys(layered)))
    return found.replace(**{name: getattr(outputs, name)[:, clips, frames][:, :, None] for name in layered})


@pytest.mark.parametrize("case", CASES)
def test_the_loss_is_that_of_whole_clips(case, alike):
    config = CASES[case]()
    whole, outputs, key = some_annotated(config), random_outputs(config), jax.random.key(0)
    packed = packing.pack(whole, int(whole["mask_valid"].sum()) + (config.loss.frames != "first"))
    clips, frames = packed["clip_index"], packed["frame_index"]

    def loss_of_whole(outputs):
        return losses.total_loss(outputs, whole, config.loss, key)

    def loss_of_packed(outputs):
        return losses.total_loss(at(outputs, clips, frames), packed, config.loss, key)

    both = (jax.value_and_grad(loss, has_aux=True, allow_int=True) for loss in (loss_of_whole, loss_of_packed))
    ((total, terms), gradient), ((found, found_terms), found_gradient) = (jax.jit(loss)(outputs) for loss in both)
    assert len(packed["frames"]) < CLIPS * FRAMES
    np.testing.assert_allclose(found, total, rtol=2e-6)
    assert found_terms.keys() == terms.keys()
    for have, want in zip(jax.tree.leaves(found_gradient), jax.tree.leaves(gradient), strict=True):
        if want.dtype == np.float32:
            np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-6 * np.abs(want).max())


@pytest.mark.parametrize("case", ["avsegformer avss", "vct"])
def test_gradients_are_of_the_annotated_frames_alone(case, alike):
    """Frames in their places among others, and packed among others: the same program, so one compilation."""
    config = CASES[case]()
    frozen = ("vggish", "backbone") if case == "vct" else ("vggish",)
    model, tx = models.create(config.model), optax.trace(0.0)  # its state are the gradients
    made = some_annotated(config)
    annotated = int(made["mask_valid"].sum())
    everywhere = every_frame(made)
    packed = with_other_frames(packing.pack(made, annotated), CLIPS * FRAMES - annotated, seed=9)

    state = jax.jit(states.init_fn(model, tx, made, 0, False))()
    step = jax.jit(make_train_step(model, tx, config, frozen))
    after, expected = step(state, everywhere)
    now, found = step(state, packed)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-6, err_msg=name)
    total = float(expected["gradient_norm"])
    assert total > 0
    gradients = (jax.tree_util.tree_leaves_with_path(each.opt_state.trace) for each in (after, now))
    for (path, want), (_, have) in zip(*gradients, strict=True):
        far = np.linalg.norm(want - have)
        assert far <= 2e-6 * max(np.linalg.norm(want), 1e-2 * total), jax.tree_util.keystr(path)
    assert not any(np.any(leaf) for part in frozen for leaf in jax.tree.leaves(now.opt_state.trace[part]))


def bright(variables, batch):
    """Scores of three classes that need no model; frames that are padding get equal ones, as AVSegFormer's do."""
    level = batch["frames"].astype(jnp.float32).mean(-1, keepdims=True)
    scores = jax.nn.softmax(-(((level - jnp.array([60.0, 128.0, 190.0])) / 60) ** 2))
    return jnp.where(batch["frame_valid"][:, :, None, None, None], scores, 1 / 3)


def split(clips=9, frames=4):
    made = example_batch(clips, frames, (8, 8), 3, seed=3)
    counts = np.random.default_rng(0).integers(1, frames + 1, clips)
    made["frame_valid"] = made["mask_valid"] = np.arange(frames) < counts[:, None]
    made["frames"][~made["frame_valid"]] = 0
    made["masks"][~made["mask_valid"]] = 0
    return made


def batches(made, groups, size):
    for group in groups:
        part = {name: value[group] for name, value in made.items()}
        filled = packing.pack(part, int(part["mask_valid"].sum())) if size else part
        rest = max(0, size - len(filled["frames"]))
        padding = {name: np.zeros((rest, *value.shape[1:]), value.dtype) for name, value in filled.items()}
        yield {name: jnp.asarray(np.concatenate([value, padding[name]])) for name, value in filled.items()}


def test_figures_and_pictures_are_those_of_whole_clips():
    made = split()
    step, found = evaluate.counting_step(bright), {}
    for size in (0, 10):
        groups = packing.whole_clips(made["mask_valid"].sum(1), size) if size else [range(i, i + 3) for i in (0, 3, 6)]
        shown = Gallery(2)
        counted = evaluate.evaluate(step, {}, batches(made, groups, size), num_classes=3, num_frames=4, gallery=shown)
        found[size] = counted, shown.examples
    (whole, seen), (packed, shown) = found.values()
    np.testing.assert_array_equal(packed.valid, whole.valid)
    np.testing.assert_array_equal(packed.clip_index, np.arange(9))
    np.testing.assert_array_equal(packed.counts[packed.valid], whole.counts[whole.valid])
    for protocol, options in {"clip": {}, "dataset": {}, "vct": {}, "avss": {"padded": True}}.items():
        assert packed.compute(protocol, **options) == whole.compute(protocol, **options)
    assert packed.compute("avss", padded=True) != packed.compute("avss", padded=False)
    assert shown.keys() == seen.keys() and len(shown) == 4
    for index, example in shown.items():
        for name in ("frames", "truth", "prediction", "annotated"):
            np.testing.assert_array_equal(getattr(example, name), getattr(seen[index], name))
