"""TPAVI's loss against the published scripts' numbers, and against float64 numpy."""

from __future__ import annotations

import types

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax import losses
from avs_jax.losses import avm
from avs_jax.models.outputs import TPAVIOutputs

STAGES = (0, 1, 2, 3)
OFF = {
    "form": "s4",
    "weight": 0.0,
    "stages": STAGES,
    "pooling": "average",
    "distance": "kl",
    "normalize": False,
    "threshold": False,
    "target": "sound",
}
S4 = OFF | {"weight": 0.5, "distance": "cosine", "normalize": True, "threshold": True}
MS3 = OFF | {"weight": 0.5, "form": "ms3"}
AVSS = OFF | {"weight": 0.5, "form": "avss"}
PUBLISHED = {
    "s4/bce": OFF,
    "s4/avm_lambda_0.5": S4,
    "s4/avm_max_pool_stage_3": S4 | {"stages": (3,), "pooling": "max"},
    "ms3/bce": OFF,
    "ms3/kl_no_norm_lambda_0.5 (train.sh)": MS3,
    "ms3/kl_norm": MS3 | {"normalize": True},
    "ms3/euclidean_norm": MS3 | {"stages": (0, 1), "normalize": True, "distance": "euclidean"},
    "ms3/kl_threshold": MS3 | {"threshold": True},
    "ms3/closer_kl_norm": MS3 | {"normalize": True, "target": "closest"},
    "avss/ce": OFF,
    "avss/kl_no_norm_lambda_0.5 (train.sh)": AVSS,
    "avss/closer_kl_norm": AVSS | {"normalize": True, "target": "closest"},
}


def loss_config(options, **values):
    return types.SimpleNamespace(main_weight=1.0, avm=types.SimpleNamespace(**options), **values)


def to_clips(array, clips):
    """(N, C, H, W) to (B, T, H, W, C)."""
    array = np.moveaxis(array, 1, -1)
    return jnp.asarray(array.reshape(clips, -1, *array.shape[1:]))


def to_frames(array):
    """(B, T, H, W, C) to (N, C, H, W)."""
    return np.moveaxis(np.asarray(array).reshape(-1, *array.shape[2:]), -1, 1)


def golden_case(task):
    """Outputs, batch and the choice of `frames` and `main` of the golden cases of a task."""
    inputs = golden.load("avsbench/losses").inputs
    clips, sound = (1, "audio10") if task == "avss" else (2, "audio")
    outputs = TPAVIOutputs(
        mask_logits=to_clips(inputs["pred_avss" if task == "avss" else "pred"], clips),
        mask_features=jnp.zeros(()),
        feature_maps=tuple(to_clips(inputs[f"map_{i}"], clips) for i in STAGES),
        audio_features=tuple(jnp.asarray(inputs[f"{sound}_{i}"]) for i in STAGES),
    )
    if task == "avss":
        flags = inputs["gt_temporal_mask_flag"].reshape(1, 10) > 0
        batch = {"masks": inputs["label_avss"][None].astype(np.uint8), "mask_valid": flags}
        return outputs, batch, {"frames": "all", "main": "cross_entropy"}
    masks = np.full((2, 5, 56, 56), 255, np.uint8)
    target = inputs["mask_first" if task == "s4" else "mask_all"].reshape(2, -1, 56, 56)
    masks[:, : target.shape[1]] = target
    return outputs, {"masks": masks}, {"frames": "first" if task == "s4" else "all", "main": "bce"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_losses_and_gradients(name):
    case = golden.load("avsbench/losses")
    assert set(case.values) == set(PUBLISHED)
    outputs, batch, choice = golden_case(name.split("/")[0])
    config = loss_config(PUBLISHED[name], **choice)

    def total(varied):
        return losses.total_loss(outputs.replace(**varied), batch, config)

    varied = {key: getattr(outputs, key) for key in ("mask_logits", "feature_maps", "audio_features")}
    (value, terms), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(varied)

    published = case.values[name]
    np.testing.assert_allclose(value, published["total"], rtol=1e-5)
    np.testing.assert_allclose(terms["main"], published["iou_loss"], rtol=1e-5)
    np.testing.assert_allclose(terms.get("avm", 0.0), published["sa_loss"], rtol=1e-5)
    found = {
        "grad_pred": to_frames(gradients["mask_logits"]),
        "grad_map_3": to_frames(gradients["feature_maps"][3]),
        "grad_audio_3": gradients["audio_features"][3],
    }
    stored = [key for key in case.outputs if key.rsplit("/", 1)[0] == name.removesuffix(" (train.sh)")]
    assert stored
    for key in stored:
        assert case.check(key, found[key.rsplit("/", 1)[1]]).rel_l2 < 2e-3, key


def small(clips=2, frames=5, classes=1, seed=0):
    """Random outputs at small sizes, two stages."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=(clips, frames, *shape)), jnp.float32)

    maps, sounds = (normal(4, 4, 6), normal(2, 2, 6)), (normal(6), normal(6))
    return TPAVIOutputs(normal(8, 8, classes), jnp.zeros(()), maps, sounds), rng


def float64(outputs):
    """Outputs as frames (N, ...) in float64."""
    return jax.tree.map(
        lambda x: np.asarray(x, np.float64).reshape(-1, *x.shape[2:]), outputs.replace(mask_features=())
    )


def total_loss(outputs, batch, config):
    return jax.jit(lambda outputs, batch: losses.total_loss(outputs, batch, config))(outputs, batch)


def test_the_matching_loss_in_float64():
    """MS3's script, frame by frame: KL of the masked mean feature from the sound, summed over frames."""
    outputs, _ = small()
    exact, expected = float64(outputs), 0.0
    for stage, size in ((0, 4), (1, 2)):
        for logits, feature, sound in zip(
            exact.mask_logits, exact.feature_maps[stage], exact.audio_features[stage], strict=True
        ):
            pooled = logits.reshape(size, 8 // size, size, 8 // size).mean((1, 3))
            seen = (feature / (1 + np.exp(-pooled))[..., None]).mean((0, 1))
            p, q = (np.exp(x) / np.exp(x).sum() for x in (sound, seen))
            expected += 0.5 * np.sum(p * np.log(p / q))
    config = loss_config(MS3 | {"stages": (0, 1)}, frames="all", main="bce")
    _, terms = total_loss(outputs, {"masks": np.zeros((2, 5, 8, 8), np.uint8)}, config)
    np.testing.assert_allclose(terms["avm"], expected, rtol=1e-6)


@pytest.mark.parametrize("options", [S4, MS3, MS3 | {"distance": "euclidean", "target": "closest"}, AVSS])
def test_the_padding_of_a_batch_changes_nothing(options):
    outputs, rng = small(clips=3, classes=4 if options["form"] == "avss" else 1)
    masks = rng.integers(0, 2, (3, 5, 8, 8)).astype(np.uint8)
    main = "cross_entropy" if options["form"] == "avss" else "bce"
    config = loss_config(options | {"stages": (0, 1)}, frames="all", main=main)
    padded, _ = total_loss(outputs, {"masks": masks, "clip_valid": np.array([True, False, True])}, config)
    kept = jax.tree.map(lambda x: x[::2] if x.ndim else x, outputs)
    alone, _ = total_loss(kept, {"masks": masks[::2]}, config)
    np.testing.assert_allclose(padded, alone, rtol=1e-6)


def test_avss_matches_annotated_frames_and_the_others_all_real_ones():
    outputs, _ = small(classes=4)
    masks = np.zeros((2, 5, 8, 8), np.uint8)
    only_first = np.arange(5) == np.zeros((2, 1))
    batch = {"masks": masks, "mask_valid": only_first, "frame_valid": np.ones((2, 5), bool)}

    def matching(outputs, batch, options, main):
        config = loss_config(options | {"stages": (0, 1)}, frames="all", main=main)
        return total_loss(outputs, batch, config)[1]["avm"]

    first = jax.tree.map(lambda x: x[:, :1] if x.ndim else x, outputs)
    of_first = matching(first, {"masks": masks[:, :1]}, AVSS, "cross_entropy")
    np.testing.assert_allclose(matching(outputs, batch, AVSS, "cross_entropy"), of_first, rtol=1e-6)

    outputs, _ = small()
    of_all = matching(outputs, {"masks": masks}, MS3, "bce")
    np.testing.assert_allclose(matching(outputs, batch, MS3, "bce"), of_all, rtol=1e-6)


@pytest.mark.parametrize("options", [S4, S4 | {"distance": "kl"}, MS3 | {"threshold": True, "normalize": True}])
def test_an_empty_prediction_has_finite_gradients(options):
    outputs, _ = small()
    config = loss_config(options | {"stages": (0, 1)}, frames="all", main="bce")

    def total(maps):
        empty = outputs.replace(mask_logits=jnp.full((2, 5, 8, 8, 1), -20.0), feature_maps=maps)
        return losses.total_loss(empty, {"masks": np.zeros((2, 5, 8, 8), np.uint8)}, config)[0]

    value, gradients = jax.jit(jax.value_and_grad(total))(outputs.feature_maps)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in gradients)


def test_the_closest_frame_is_never_the_frame_itself_nor_padding():
    audio = jnp.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [1.0, 0.01]])
    assert avm.closest_frames(audio, jnp.ones(4)).tolist() == [3, 3, 1, 0]
    assert avm.closest_frames(audio, jnp.array([1.0, 1.0, 1.0, 0.0])).tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"form": "s5"}, "avm.form is 's5'"),
        ({"pooling": "mean"}, "avm.pooling is 'mean'"),
        ({"distance": "l1"}, "avm.distance is 'l1'"),
        ({"target": "mask"}, "avm.target is 'mask'"),
        ({"stages": (0, 1, 2)}, "avm.stages has 2, where config.model does not bring in the sound"),
    ],
)
def test_what_cannot_be_computed_is_named(changed, message):
    outputs, _ = small()
    outputs = outputs.replace(audio_features=(*outputs.audio_features, None))
    config = loss_config(MS3 | {"stages": (0, 1)} | changed, frames="all", main="bce")
    with pytest.raises(ValueError, match=message):
        losses.total_loss(outputs, {"masks": np.zeros((2, 5, 8, 8), np.uint8)}, config)
