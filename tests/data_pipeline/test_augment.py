"""Published preprocessing against the authors' own pixels, and the paired random transforms."""

import fractions

import golden
import numpy as np
import pytest
import rule
from PIL import Image

from data_pipeline import augment


@pytest.fixture(scope="module")
def case():
    return golden.load("avsegformer/data_avss")


def picture(case, name, factor):
    """An input image of the goldens, as their notes say: uint8, every pixel repeated `factor` times."""
    small = case.inputs[f"image_{name}"]
    pixels = np.clip(np.round(128 + 60 * small), 0, 255).astype(np.uint8)
    return pixels.repeat(factor, 0).repeat(factor, 1)


@pytest.mark.parametrize("name", ["landscape", "portrait", "square"])
@pytest.mark.parametrize(
    ("preprocess", "frame", "label"),
    [("centre_crop", "train_crop", "train_label"), ("squash", "eval_resize", "eval_label")],
)
def test_avss_preprocessing_is_the_published_one(case, name, preprocess, frame, label):
    frames, masks = augment.PREPROCESS[preprocess](
        picture(case, name, 6)[None], case.inputs[f"label_{name}"].astype(np.uint8)[None], (224, 224)
    )
    assert case.check(f"{name}/{frame}", frames[0]).max_abs == 0
    assert case.check(f"{name}/{label}", masks[0]).max_abs == 0


def test_s4_and_ms3_preprocessing_is_the_published_one(case):
    masks = (case.inputs["mask_s4"] > 0).astype(np.uint8)
    frames, masks = augment.squash(picture(case, "s4", 4)[None], masks[None], (512, 512))
    assert case.check("s4/image_512", frames[0]).max_abs == 0
    assert case.check("s4/mask_mode_1_512", masks[0]).max_abs == 0
    assert case.check("s4/mask_mode_P_512", masks[0] * 255).max_abs == 0


def test_the_published_choice_of_preprocessing():
    choice = {(task, train): augment.published_preprocess(task, train) for task in ("s4", "avss") for train in (0, 1)}
    assert choice == {("s4", 0): "squash", ("s4", 1): "squash", ("avss", 0): "squash", ("avss", 1): "centre_crop"}


def test_nothing_is_touched_where_the_size_is_right():
    frames, masks = np.zeros((2, 24, 32, 3), np.uint8), np.zeros((2, 24, 32), np.uint8)
    for preprocess in augment.PREPROCESS.values():
        out = preprocess(frames, masks, (24, 32))
        assert np.shares_memory(out[0], frames) and np.shares_memory(out[1], masks)


@pytest.mark.parametrize("size", [(32, 32), (32, 48), (48, 20)])
@pytest.mark.parametrize("shape", [(60, 90), (91, 37), (30, 30)])
def test_a_centre_crop_fills_any_size_from_the_centre(shape, size):
    """Against a float64 evaluation: pixel (i, j) of the output shows the source at the centre plus its offset."""
    ramp = np.stack(np.broadcast_arrays(*np.ogrid[: shape[0], : shape[1]], 0), -1).astype(np.uint8)
    frames, _ = augment.centre_crop(ramp[None], ramp[None, ..., 0], size)
    assert frames.shape == (1, *size, 3)
    scale = max(size[0] / shape[0], size[1] / shape[1])
    for axis in (0, 1):
        offset = np.arange(size[axis]) + 0.5 - size[axis] / 2
        expected = offset / scale + shape[axis] / 2 - 0.5
        found = frames[0, :, size[1] // 2, 0] if axis == 0 else frames[0, size[0] // 2, :, 1]
        inside = slice(3, -3)  # the picture's own edges are clamped by the filter
        assert np.abs(found - expected)[inside].max() <= 1.0 / scale + 0.51


def paired_clip(seed=0, shape=(40, 60)):
    """Frames whose red channel is the mask, so that a pair that comes apart shows."""
    masks = rule.mask(f"pair/{seed}", (3, *shape), 0.4).astype(np.uint8)
    masks = np.kron(masks[:, ::10, ::10], np.ones((1, 10, 10), np.uint8))
    return np.stack([masks * 255, masks * 0, masks * 0], -1), masks


def test_a_flip_mirrors_frames_and_masks_of_half_the_clips():
    frames, masks = paired_clip()
    flipped = 0
    for seed in range(200):
        out_frames, out_masks = augment.random_flip(frames, masks, np.random.default_rng(seed))
        np.testing.assert_array_equal(out_frames[..., 0], out_masks * 255)
        flipped += np.array_equal(out_masks, masks[:, :, ::-1]) and not np.array_equal(out_masks, masks)
    assert 70 < flipped < 130


@pytest.mark.parametrize("size", [(32, 32), (20, 40)])
def test_a_random_crop_keeps_the_pair_together_and_the_picture_inside(size):
    frames, masks = paired_clip()
    frames = frames // 2 + 60  # nowhere zero: padding would show
    for seed in range(20):
        out_frames, out_masks = augment.random_crop(frames, masks, size, 0.4, np.random.default_rng(seed))
        assert out_frames.shape == (3, *size, 3) and out_masks.shape == (3, *size)
        assert out_frames.min() >= 60
        agrees = (out_frames[..., 0] > 123) == (out_masks > 0)
        assert agrees.mean() > 0.9  # edges may differ by the filter


def test_a_random_crop_of_everything_is_the_squash_of_a_picture_with_the_same_proportions():
    frames, masks = paired_clip()
    crop = augment.random_crop(frames, masks, (20, 30), 1.0, np.random.default_rng(0))
    for mine, expected in zip(crop, augment.squash(frames, masks, (20, 30)), strict=True):
        np.testing.assert_array_equal(mine, expected)


def test_the_same_seed_gives_the_same_crop():
    frames, masks = paired_clip()
    crops = [augment.random_crop(frames, masks, (16, 16), 0.3, np.random.default_rng(s))[1] for s in (5, 5, 6)]
    np.testing.assert_array_equal(crops[0], crops[1])
    assert not np.array_equal(crops[0], crops[2])


def test_resizing_is_pillows():
    frames, _ = paired_clip()
    expected = Image.fromarray(frames[1]).resize((17, 23), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(augment.resize(frames, (23, 17))[1], np.asarray(expected))


PUBLISHED_EDGES = (192, 230, 268, 307, 345, 384, 422, 460, 499, 537, 576, 614, 652, 691, 729, 768)
SCALES = tuple(n / 10 for n in range(5, 21))


def test_the_published_scales_are_the_published_edges():
    frames, masks = np.zeros((1, 20, 20, 3), np.uint8), np.zeros((1, 20, 20), np.uint8)
    for scale, edge in zip(SCALES, PUBLISHED_EDGES, strict=True):
        out, _ = augment.random_scale_crop(frames, masks, (384, 384), (scale,), np.random.default_rng(0))
        assert out.shape == (1, min(edge, 384), min(edge, 384), 3)


@pytest.mark.parametrize("size", [(384, 384), (224, 600), (720, 1280), (600, 224), (333, 500), (100, 4000)])
@pytest.mark.parametrize("edge", PUBLISHED_EDGES[::5])
def test_scaled_sizes_keep_proportions_up_to_the_longest_side(size, edge):
    """By fractions: the shorter side is `edge`, or the longer one 896, and the other follows."""
    scale = min(fractions.Fraction(edge, min(size)), fractions.Fraction(896, max(size)))
    expected = tuple(int(side * scale + fractions.Fraction(1, 2)) for side in size)
    assert augment.scaled_size(size, edge, 896) == expected


def test_a_scaled_crop_is_a_window_of_the_scaled_clip():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 10, 14, 3)).astype(np.uint8)
    masks = rng.integers(0, 71, (1, 10, 14)).astype(np.uint8)
    places = set()
    for seed in range(30):
        out, out_masks = augment.random_scale_crop(frames, masks, (12, 12), (0.5, 1.5), np.random.default_rng(seed))
        edge = 18 if out.shape[1:3] == (12, 12) else 6
        size = (edge, round(edge * 1.4))
        whole = np.stack([np.asarray(Image.fromarray(f).resize(size[::-1], Image.Resampling.BILINEAR)) for f in frames])
        labels = np.asarray(Image.fromarray(masks[0]).resize(size[::-1], Image.Resampling.NEAREST))
        windows = np.lib.stride_tricks.sliding_window_view(whole[..., 0], out.shape[1:3], axis=(1, 2))
        ((top, left),) = np.argwhere((windows == out[:, None, None, ..., 0]).all((0, 3, 4)))
        np.testing.assert_array_equal(out, whole[:, top : top + out.shape[1], left : left + out.shape[2]])
        np.testing.assert_array_equal(out_masks[0], labels[top : top + out.shape[1], left : left + out.shape[2]])
        places.add((edge, int(top), int(left)))
    assert len(places) > 10 and {edge for edge, *_ in places} == {6, 18}


def test_padding_is_right_and_below():
    frames, masks = np.zeros((2, 5, 7, 3), np.uint8), np.zeros((1, 5, 7), np.uint8)
    out, out_masks = augment.pad(frames, masks, (8, 9))
    assert out.shape == (2, 8, 9, 3) and out_masks.shape == (1, 8, 9)
    assert not out[:, :5, :7].any() and (out[:, 5:] == 128).all() and (out[:, :, 7:] == 128).all()
    assert not out_masks[:, :5, :7].any() and (out_masks[:, 5:] == 255).all() and (out_masks[:, :, 7:] == 255).all()
    assert augment.pad(out, out_masks, (8, 9))[0] is out


def test_every_frame_has_its_own_colours():
    frames = np.repeat(paired_clip()[0][:1] // 2 + 60, 6, axis=0)
    first, again, other = (augment.random_colours(frames, np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any() and len({frame.tobytes() for frame in first}) > 3


def test_squaring_squashes_to_the_shorter_side():
    frames, masks = paired_clip()
    squared = augment.square(frames, masks)
    for mine, expected in zip(squared, augment.squash(frames, masks, (40, 40)), strict=True):
        np.testing.assert_array_equal(mine, expected)
