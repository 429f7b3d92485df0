"""The objective against the published implementation's numbers, and against float64 numpy."""

from __future__ import annotations

import types

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax import losses
from avs_jax.losses import terms

S4 = {"frames": "first", "main": "dice", "main_weight": 1.0, "mix": "dice", "mix_weight": 0.1}
MS3 = S4 | {"frames": "all"}
AVSS = MS3 | {"main": "cross_entropy"}


def loss_config(**values):
    return types.SimpleNamespace(**values)


def outputs(mask_logits, mask_features, mix_logits=None):
    return types.SimpleNamespace(mask_logits=mask_logits, mask_features=mask_features, mix_logits=mix_logits)


def to_clips(array, clips):
    """(N,C,H,W) frames of `clips` clips to (B,T,H,W,C)."""
    array = np.moveaxis(array, 1, -1)
    return array.reshape(clips, -1, *array.shape[1:])


def to_frames(array):
    """(B,T,H,W,C) to (N,C,H,W)."""
    return np.moveaxis(np.asarray(array).reshape(-1, *array.shape[2:]), -1, 1)


def loss_and_gradients(logits, features, batch, config):
    def loss(logits, features):
        return losses.total_loss(outputs(logits, features), batch, loss_config(**config))

    (total, terms), gradients = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(logits, features)
    return total, terms, gradients


def golden_batch(case, clips):
    """The targets of a golden loss case as a batch."""
    inputs, frames = case.inputs, case.manifest["inputs"]["pred"]["shape"][0]
    if "label" in inputs.manifest:
        masks = inputs["label"].reshape(clips, frames // clips, *inputs["label"].shape[1:])
        return {"masks": masks.astype(np.uint8), "mask_valid": inputs["gt_temporal_mask_flag"].reshape(clips, -1) > 0}
    target = inputs["mask"].copy()
    if "mask_empty_frames" in inputs.manifest:
        target[inputs["mask_empty_frames"]] = 0
    masks = np.full((clips, frames // clips, *target.shape[-2:]), 255, np.uint8)
    masks[:, : target.size // masks[:, :1].size] = target.reshape(clips, -1, *target.shape[-2:])
    return {"masks": masks}


@pytest.mark.parametrize(
    ("name", "kind", "config"),
    [
        ("loss_s4", "dice", S4),
        ("loss_s4", "bce", S4 | {"main": "bce", "mix": "bce"}),
        ("loss_ms3", "dice", MS3),
        ("loss_ms3", "bce", MS3 | {"main": "bce", "mix": "bce"}),
        ("loss_avss", "ce", AVSS),
    ],
)
def test_equals_the_published_loss_and_its_gradients(name, kind, config):
    case = golden.load(f"avsegformer/{name}")
    logits, features = to_clips(case.inputs["pred"], 2), to_clips(case.inputs["mask_feature"], 2)
    total, terms, gradients = loss_and_gradients(logits, features, golden_batch(case, 2), config)
    value = case.values[kind]
    np.testing.assert_allclose(total, value["total"], rtol=2e-6)
    np.testing.assert_allclose(terms["main"], value["iou_loss"], rtol=2e-6)
    np.testing.assert_allclose(0.1 * terms["mix"], value["mix_loss"], rtol=2e-6)
    for output, gradient in zip(("grad_pred", "grad_mask_feature"), gradients, strict=True):
        assert case.check(f"{kind}/{output}", to_frames(gradient)).rel_l2 < 2e-6


def test_a_frame_without_object_gets_no_dice_gradient():
    case = golden.load("avsegformer/loss_ms3")
    logits, features = to_clips(case.inputs["pred"], 2), to_clips(case.inputs["mask_feature"], 2)
    _, _, (gradient, _) = loss_and_gradients(logits, features, golden_batch(case, 2), MS3)
    per_frame = np.abs(np.asarray(gradient, np.float64)).sum((2, 3, 4)).reshape(-1)
    np.testing.assert_allclose(per_frame, case.values["dice/grad_pred_abs_sum_per_frame"], rtol=1e-5, atol=1e-9)


def small_case(seed=0, classes=1, clips=3, frames=2, size=8):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(clips, frames, size, size, classes)).astype(np.float32)
    features = rng.normal(size=(clips, frames, size // 4, size // 4, 5)).astype(np.float32)
    masks = rng.integers(0, max(2, classes), size=(clips, frames, size, size)).astype(np.uint8)
    return logits, features, masks


def brute_dice(logits, target, keep):
    p = 1 / (1 + np.exp(-logits.astype(np.float64)[keep]))
    g = target[keep].astype(np.float64)
    return 1 - 2 * (p * g).sum() / ((p**2).sum() + 0.001 + (g**2).sum() + 0.001)


def test_ignored_pixels_and_frames_do_not_count():
    logits, features, masks = small_case()
    masks[:, :, :3] = 255
    mask_valid = np.array([[1, 0], [1, 1], [1, 1]], bool)
    clip_valid = np.array([1, 1, 0], bool)
    batch = {"masks": masks, "mask_valid": mask_valid, "clip_valid": clip_valid}
    total, terms, (gradient, _) = loss_and_gradients(logits, features, batch, MS3 | {"mix": "none"})
    kept = [(0, 0), (1, 0), (1, 1)]
    expected = np.mean([brute_dice(logits[i][..., 0], masks[i], masks[i] != 255) for i in kept])
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    assert set(terms) == {"main"}
    assert (
        not gradient[:, :, :3].any()
        and not gradient[2].any()
        and not gradient[0, 1].any()
        and gradient[1].all(where=masks[1][..., None] != 255)
    )


@pytest.mark.parametrize("config", [MS3, MS3 | {"main": "bce", "mix": "bce"}, AVSS, S4])
@pytest.mark.parametrize("nothing", ["frames", "clips", "pixels"])
def test_nothing_annotated_is_no_loss(config, nothing):
    logits, features, masks = small_case(classes=4 if config["main"] == "cross_entropy" else 1)
    batch = {"masks": masks, "mask_valid": np.ones((3, 2), bool), "clip_valid": np.ones(3, bool)}
    if nothing == "frames":
        batch["mask_valid"] = np.zeros((3, 2), bool)
    elif nothing == "clips":
        batch["clip_valid"] = np.zeros(3, bool)
    else:
        batch["masks"] = np.full_like(masks, 255)
    total, _, gradients = loss_and_gradients(logits, features, batch, config)
    assert total == 0
    assert all(np.isfinite(g).all() and not g.any() for g in gradients)


def test_cross_entropy_against_float64():
    logits, features, masks = small_case(classes=4)
    masks[0, 0, :2] = 255
    total, _, _ = loss_and_gradients(logits, features, {"masks": masks}, AVSS | {"mix": "none"})
    x = logits.astype(np.float64)
    log_p = x - np.log(np.exp(x).sum(-1, keepdims=True))
    picked = -np.take_along_axis(log_p, np.where(masks == 255, 0, masks)[..., None].astype(int), -1)[..., 0]
    frames = [picked[i][masks[i] != 255].mean() for i in np.ndindex(3, 2)]
    np.testing.assert_allclose(total, np.mean(frames), rtol=1e-6)


def test_saturated_probabilities_cost_100_and_have_no_gradient():
    target = jnp.array([[1.0, 0.0], [1.0, 0.0]])
    logits = jnp.array([[-200.0, 200.0], [200.0, -200.0]])

    def loss(x):
        return terms.binary_cross_entropy(jax.nn.sigmoid(x), target, jnp.ones((2, 2)))

    np.testing.assert_allclose(loss(logits), 50.0, rtol=1e-6)
    assert not np.asarray(jax.grad(loss)(logits)).any()


def test_the_paper_variant_brings_its_own_mix_logits():
    logits, features, masks = small_case()
    mix = features[..., :1]
    given = outputs(jnp.asarray(logits), jnp.asarray(features), jnp.asarray(mix))
    as_feature = outputs(jnp.asarray(logits), jnp.asarray(mix))
    config = loss_config(**MS3)
    np.testing.assert_array_equal(
        losses.total_loss(given, {"masks": masks}, config)[1]["mix"],
        losses.total_loss(as_feature, {"masks": masks}, config)[1]["mix"],
    )


def test_bfloat16_outputs_are_weighed_in_float32():
    logits, features, masks = small_case()
    half = outputs(jnp.asarray(logits, jnp.bfloat16), jnp.asarray(features, jnp.bfloat16))
    full = outputs(half.mask_logits.astype(jnp.float32), half.mask_features.astype(jnp.float32))
    config = loss_config(**MS3)
    total, terms = losses.total_loss(half, {"masks": masks}, config)
    assert total.dtype == jnp.float32 and all(term.dtype == jnp.float32 for term in terms.values())
    np.testing.assert_array_equal(total, losses.total_loss(full, {"masks": masks}, config)[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"main": "focal"}, "loss.main='focal'"),
        ({"mix": "focal"}, "loss.mix='focal'"),
        ({"frames": "last"}, "loss.frames='last'"),
    ],
)
def test_unknown_names_are_refused(change, message):
    logits, features, masks = small_case()
    with pytest.raises(ValueError, match=message):
        losses.total_loss(outputs(logits, features), {"masks": masks}, loss_config(**MS3 | change))


def test_sizes_and_classes_that_do_not_fit_are_refused():
    logits, features, masks = small_case()
    with pytest.raises(ValueError, match="do not belong to masks"):
        losses.total_loss(outputs(logits, features), {"masks": masks[..., :4]}, loss_config(**MS3))
    logits, features, masks = small_case(classes=4)
    with pytest.raises(ValueError, match="is for one class, these are 4"):
        losses.total_loss(outputs(logits, features), {"masks": masks}, loss_config(**MS3))
