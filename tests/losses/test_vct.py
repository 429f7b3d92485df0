"""VCT's objective: which frames and classes are targets, that the terms add up, and that it leads to the targets."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from avs_jax import losses
from avs_jax.losses import vct
from avs_jax.models.outputs import VCTOutputs
from data_pipeline.labels import S4_CATEGORIES
from tests.quick import quick_compilation  # noqa: F401

CLIPS, FRAMES, QUERIES, SIZE = 2, 3, 6, 16


def config(**changes):
    return ConfigDict(
        {
            "frames": "all", "max_targets": 4, "class_weight": 2.0, "mask_weight": 5.0, "dice_weight": 5.0,
            "no_object_weight": 0.1, "num_points": 64, "oversample": 3.0, "importance": 0.75, "pac_weight": 1.0,
            "pac_target": "labels",
        }
        | changes
    )  # fmt: skip


def example(classes=4, seed=0):
    rng = np.random.default_rng(seed)
    outputs = VCTOutputs(
        rng.normal(size=(2, CLIPS, FRAMES, QUERIES, classes + 1)).astype(np.float32),
        rng.normal(size=(2, CLIPS, FRAMES, QUERIES, 8, 8)).astype(np.float32),
        np.ones((CLIPS, FRAMES), bool),
        rng.normal(size=(CLIPS, FRAMES, classes)).astype(np.float32),
    )
    masks = np.zeros((CLIPS, FRAMES, SIZE, SIZE), np.uint8)
    masks[:, :, 4:10, 3:12] = rng.integers(1, classes, (CLIPS, FRAMES, 1, 1))
    masks[..., -1] = 255
    return outputs, {"masks": masks}


total_loss = jax.jit(lambda outputs, batch, key, config: vct.total_loss(outputs, batch, config.value, key),
                     static_argnums=3)  # fmt: skip


class Static:
    """A configuration as a static argument."""

    def __init__(self, **changes):
        self.value = config(**changes)


ALL = Static()


def test_targets_are_the_classes_of_a_frame():
    masks = np.zeros((1, 3, 4, 4), np.uint8)
    masks[0, 0, :2], masks[0, 0, 2] = 5, 3
    masks[0, 1] = 255
    targets = vct.frame_targets(jnp.array(masks), jnp.array([[1.0, 1.0, 0.0]]), 6, 4)
    assert targets.labels[0, :3].tolist() == [0, 3, 5]
    np.testing.assert_array_equal(targets.valid, [[True] * 3 + [False], [False] * 4, [False] * 4])
    for k, label in enumerate((0, 3, 5)):
        np.testing.assert_array_equal(targets.masks[0, k], masks[0, 0] == label)


def test_any_object_is_the_second_of_two_classes():
    masks = np.array([[[[0, 7], [255, 1]]]], np.uint8)
    targets = vct.frame_targets(jnp.array(masks), jnp.ones((1, 1)), 2, 2)
    np.testing.assert_array_equal(targets.labels, [[0, 1]])
    np.testing.assert_array_equal(targets.masks[0, 1], [[0, 1], [0, 1]])


def test_terms_add_up():
    outputs, batch = example()
    total, terms = total_loss(outputs, batch, jax.random.key(0), ALL)
    assert set(terms) == {"ce", "mask", "dice", "ce_0", "mask_0", "dice_0", "pac"}
    weights = {"ce": 2, "mask": 5, "dice": 5, "pac": 1}
    np.testing.assert_allclose(total, sum(weights[k.split("_")[0]] * v for k, v in terms.items()), rtol=1e-6)
    assert "pac" not in total_loss(outputs, batch, jax.random.key(0), Static(pac_weight=0.0))[1]


def test_the_loss_of_every_system_is_called_in_one_way():
    outputs, batch = example()
    direct, _ = vct.total_loss(outputs, batch, ALL.value, jax.random.key(0))
    assert direct == losses.total_loss(outputs, batch, ALL.value, jax.random.key(0))[0]
    with pytest.raises(ValueError, match="needs a key as `rng`"):
        losses.total_loss(outputs, batch, ALL.value)


def test_the_key_decides_the_points():
    outputs, batch = example()
    first, again, other = (total_loss(outputs, batch, jax.random.key(i), ALL)[1] for i in (0, 0, 1))
    assert first["mask"] == again["mask"] != other["mask"]


def test_frames_without_annotation_count_nowhere():
    outputs, batch = example()
    batch["mask_valid"] = np.array([[True, False, True], [True, True, False]])
    batch["clip_valid"] = np.array([True, False])
    _, terms = total_loss(outputs, batch, jax.random.key(0), ALL)
    changed = jax.tree.map(np.copy, outputs)
    spoilt = (np.array([0, 1, 1, 1]), np.array([1, 0, 1, 2]))
    for array in (changed.class_logits, changed.mask_logits):
        array[:, *spoilt] = 50
    changed.prototype_logits[spoilt] = 50
    batch["masks"][spoilt] = 1
    _, same = total_loss(changed, batch, jax.random.key(0), ALL)
    assert all(same[name] == terms[name] for name in terms)


def test_only_first_frames():
    outputs, batch = example()
    first = jax.tree.map(lambda x: x[:, :, :1] if x.ndim > 3 else x[:, :1], outputs)
    _, found = total_loss(outputs, batch, jax.random.key(0), Static(frames="first"))
    _, expected = total_loss(first, {"masks": batch["masks"][:, :1]}, jax.random.key(0), ALL)
    assert all(found[name] == expected[name] for name in expected)


def test_a_batch_without_targets_has_a_finite_loss():
    outputs, batch = example()
    batch["masks"][:] = 255
    batch["mask_valid"] = np.zeros((CLIPS, FRAMES), bool)
    loss = jax.jit(
        jax.value_and_grad(lambda o: vct.total_loss(o, batch, ALL.value, jax.random.key(0))[0], allow_int=True)
    )
    total, gradient = loss(outputs)
    assert total == 0
    assert all(np.isfinite(x).all() for x in (gradient.class_logits, gradient.mask_logits, gradient.prototype_logits))


def test_classes_beyond_the_number_of_targets_are_left_out():
    masks = np.array([[[[5, 0], [3, 3]]]], np.uint8)
    targets = vct.frame_targets(jnp.array(masks), jnp.ones((1, 1)), 6, 2)
    np.testing.assert_array_equal(targets.labels, [[0, 3]])
    np.testing.assert_array_equal(targets.valid, [[True, True]])
    outputs, batch = example()
    _, terms = total_loss(outputs, batch, jax.random.key(0), Static(max_targets=1))
    assert all(np.isfinite(value) for value in terms.values())


def test_every_category_has_a_prototype_of_its_own():
    assert sorted(vct.S4_PROTOTYPES) == list(range(len(S4_CATEGORIES)))
    numbered = {name: vct.S4_PROTOTYPES[i] + 1 for i, name in enumerate(S4_CATEGORIES)}
    published = {"helicopter": 1, "playing_violin": 4, "baby_laughter": 8, "male_speech": 9, "cat_meowing": 17,
                 "ambulance_siren": 19, "race_car": 23}  # fmt: skip
    assert published.items() <= numbered.items()


def test_a_clip_sounds_like_its_category_or_like_none():
    batch = {"category": np.array([S4_CATEGORIES.index("helicopter"), -1])}
    present = vct.pac_targets(batch, np.zeros((2, 1, 4, 4), np.uint8), 23, "category")
    assert np.flatnonzero(present[0, 0]).tolist() == [0] and not present[1].any()


def test_an_unknown_target_of_the_contrast_is_refused():
    with pytest.raises(ValueError, match="config.loss.pac_target is 'class'"):
        vct.pac_targets({}, np.zeros((1, 1, 2, 2), np.uint8), 3, "class")


def test_gradient_descent_finds_the_targets():
    outputs, batch = example()

    @jax.jit
    def step(outputs, key):
        loss = functools.partial(vct.total_loss, batch=batch, config=ALL.value, rng=key)
        (total, _), gradient = jax.value_and_grad(loss, has_aux=True, allow_int=True)(outputs)
        moved = jax.tree.map(lambda x, g: x - 20 * g if jnp.issubdtype(x.dtype, jnp.floating) else x, outputs, gradient)
        return moved, total

    totals = []
    for i in range(150):
        outputs, total = step(outputs, jax.random.key(i))
        totals.append(float(total))
    assert totals[-1] < 0.4 * totals[0]
