"""The loader on records whose every pixel and sample is known."""

import io
import types

import numpy as np
import pytest
from PIL import Image

from data_pipeline import batch, clips, loader, tfrecord
from tests.data_pipeline.known_records import (
    RANDOM,
    SIZE,
    VCT,
    assert_same,
    make_record,
    options,
    pixels,
    rejoined,
    take,
    write_set,
)


def test_evaluation_gives_every_clip_in_order_with_a_padded_tail(s4):
    batches = loader.eval_batches(s4, "val", options())
    found = list(batches)
    assert len(batches) == len(found) == 2
    assert all(batch.check_batch(b) == {"B": 4, "T": 5, "H": 24, "W": 32} for b in found)
    assert found[1]["clip_index"].tolist() == [4, 5, 6, -1] and found[1]["clip_valid"].tolist() == [True] * 3 + [False]
    assert found[1]["category"].tolist() == [1, 2, 0, -1]
    assert not any(found[1][name][3].any() for name in ("frames", "masks", "log_mel", "frame_valid", "mask_valid"))
    together = rejoined(found)
    for index in range(7):
        record = make_record("s4", "val", index)
        np.testing.assert_array_equal(together["log_mel"][index], record.log_mel)
        for t in range(5):
            np.testing.assert_array_equal(together["frames"][index, t], pixels(record.frames[t]))
            np.testing.assert_array_equal(together["masks"][index, t], pixels(record.masks[t]))
    assert_same(found, list(batches))


def test_clips_are_read_by_their_index_as_they_stand_in_batches(s4):
    (found,) = loader.read_clips(s4, "val", options(), [5])
    expected = list(loader.eval_batches(s4, "val", options()))[1]
    assert_same([found], [{name: array[1] for name, array in expected.items()}])


def test_clips_are_counted_and_named_in_the_order_of_clip_index(s4):
    assert loader.num_clips(s4, "train") == 13
    assert loader.clip_names(s4, "val") == [f"val_{i}" for i in range(7)]


def test_only_the_first_frame_of_s4s_training_clips_is_annotated(s4):
    made = next(loader.train_batches(s4, "train", options()))
    assert made["mask_valid"].tolist() == [[True, False, False, False, False]] * 4
    assert made["frame_valid"].all() and not made["masks"][:, 1:].any() and made["masks"][:, 0].any()


def test_supervised_frames_only_is_the_first_frame_of_the_whole_clip(s4):
    whole = next(loader.train_batches(s4, "train", options()))
    first = next(loader.train_batches(s4, "train", options(supervised_frames_only=True)))
    assert batch.check_batch(first)["T"] == 1
    for name in ("frames", "log_mel", "masks", "frame_valid", "mask_valid"):
        np.testing.assert_array_equal(first[name], whole[name][:, :1])


def test_training_sees_every_clip_once_an_epoch_in_a_new_order(s4):
    batches = take(loader.train_batches(s4, "train", options(batch_size=1)), 39)
    order = np.array([int(b["clip_index"][0]) for b in batches]).reshape(3, 13)
    assert (np.sort(order, axis=1) == np.arange(13)).all()
    assert len({tuple(epoch) for epoch in order}) == 3
    again = take(loader.train_batches(s4, "train", options(batch_size=1, seed=1)), 13)
    assert [int(b["clip_index"][0]) for b in again] != order[0].tolist()


def test_the_cache_is_not_disturbed_by_random_transforms(s4):
    plain = take(loader.train_batches(s4, "train", options(flip=True)), 8)
    assert_same(take(loader.train_batches(s4, "train", options(flip=True, cache=True)), 8), plain)


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_out_each_global_batch(s4, monkeypatch, count):
    whole_train = take(loader.train_batches(s4, "train", options()), 4)
    whole_eval = list(loader.eval_batches(s4, "val", options()))
    train, evaluation = [], []
    for index in range(count):
        shard = types.SimpleNamespace(shard_index=index, shard_count=count, drop_remainder=False)
        monkeypatch.setattr(loader.grain.sharding, "ShardByJaxProcess", lambda shard=shard: shard)
        train.append(take(loader.train_batches(s4, "train", options()), 4))
        evaluation.append(list(loader.eval_batches(s4, "val", options())))
    for parts, whole in ((evaluation, whole_eval), (train, whole_train)):
        batches = zip(*parts, strict=True)
        assert_same([{k: np.concatenate([part[k] for part in each]) for k in each[0]} for each in batches], whole)


def test_a_batch_that_cannot_be_shared_out_is_refused(s4, monkeypatch):
    shard = types.SimpleNamespace(shard_index=0, shard_count=3)
    monkeypatch.setattr(loader.grain.sharding, "ShardByJaxProcess", lambda: shard)
    with pytest.raises(loader.LoaderError, match="batch_size=4 is not a multiple of the 3 processes"):
        loader.eval_batches(s4, "val", options())


def test_avss_clips_of_five_frames_are_padded_to_ten(avss):
    made = next(iter(loader.eval_batches(avss, "test", options("avss", image_size=(48, 64)))))
    assert batch.check_batch(made)["T"] == 10
    assert made["frame_valid"].sum(axis=1).tolist() == [10, 5, 10, 5]
    assert not made["frames"][1, 5:].any() and not made["masks"][1, 5:].any()
    record = make_record("avss", "test", 1, size=(48, 64))
    for t, data in enumerate(record.frames):
        np.testing.assert_array_equal(made["frames"][1, t], pixels(data))
    assert (made["category"] == -1).all()


def test_avss_crops_in_training_and_squashes_in_evaluation(avss):
    settings = options("avss", image_size=(32, 32))
    record = make_record("avss", "train", 0, size=(48, 64))
    image = Image.open(io.BytesIO(record.frames[0])).convert("RGB")
    clips = rejoined([next(loader.train_batches(avss, "train", settings))])
    frame = clips["frames"][list(clips["clip_index"]).index(0), 0]
    scaled = np.asarray(image.resize((42, 32), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(frame, scaled[:, 5:37])
    squashed = next(iter(loader.eval_batches(avss, "train", settings)))["frames"][0, 0]
    np.testing.assert_array_equal(squashed, np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR)))


def test_avss_is_squared_before_it_is_scaled(avss):
    """48 x 64 pixels become 48 x 48, then 24 x 24 in the left upper corner of 32 x 32."""
    settings = options("avss", image_size=(32, 32), scales=(0.75,), batch_size=1)
    (found,) = take(loader.train_batches(avss, "train", settings), 1)
    record = make_record("avss", "train", int(found["clip_index"][0]), size=(48, 64))
    frame = Image.open(io.BytesIO(record.frames[1])).convert("RGB")
    expected = frame.resize((48, 48), Image.Resampling.BILINEAR).resize((24, 24), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(found["frames"][0, 1, :24, :24], expected)
    assert (found["frames"][0, 1, 24:] == 128).all() and (found["masks"][0, 1, :, 24:] == 255).all()


@pytest.fixture(scope="module")
def segmented(tmp_path_factory):
    """Clips with pre-segmented images of half their frames' size: the frames with red and blue exchanged."""
    return write_set(tmp_path_factory.mktemp("segmented"), "s4", {"train": 4, "val": 3}, pre_masks=True)


def test_pre_segmented_images_take_the_nearest_pixel(segmented):
    found = next(iter(loader.eval_batches(segmented, "val", options(pre_masks=True))))
    batch.check_batch(found)
    np.testing.assert_array_equal(found["pre_masks"], found["frames"][..., ::-1])
    assert not found["pre_masks"][3].any()  # the padding of the batch
    assert "pre_masks" not in next(iter(loader.eval_batches(segmented, "val", options())))


def test_pre_segmented_images_are_moved_with_their_frames(segmented):
    plain = take(loader.train_batches(segmented, "train", options(pre_masks=True, **RANDOM)), 2)
    (vct,) = take(loader.train_batches(segmented, "train", options(pre_masks=True, **VCT | {"colour": False})), 1)
    for found in (*plain, vct):
        np.testing.assert_array_equal(found["pre_masks"], found["frames"][..., ::-1])
    (coloured,) = take(loader.train_batches(segmented, "train", options(pre_masks=True, colour=True)), 1)
    assert (coloured["pre_masks"] != coloured["frames"][..., ::-1]).any()
    first = loader.train_batches(segmented, "train", options(pre_masks=True, supervised_frames_only=True))
    assert take(first, 1)[0]["pre_masks"].shape == (4, 1, *SIZE, 3)


def test_pre_segmented_images_that_are_not_there_are_missed(s4):
    message = r"clip val_0 has 0 pre-segmented images for 5 frames: put them beside its raw files .* convert again"
    with pytest.raises(tfrecord.RecordError, match=message):
        next(iter(loader.eval_batches(s4, "val", options(pre_masks=True))))


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "L"), ("JPEG", "RGB"), ("PNG", "L"), ("PNG", "RGB"), ("PNG", "P")])
def test_images_are_decoded_as_pillow_does(kind, mode):
    noise = np.random.default_rng(0).integers(0, 256, (17, 23, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(buffer, kind)
    expected = np.asarray(Image.open(buffer).convert("RGB"))
    np.testing.assert_array_equal(clips.decode_image(buffer.getvalue()), expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"task": "s5"},
        {"preprocess": "stretch"},
        {"min_crop": 0.0},
        {"batch_size": 0},
        {"num_frames": 0},
        {"scales": (0.0, 1.0)},
        {"scales": (1.0,), "min_crop": 0.5},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(changes):
    with pytest.raises(loader.LoaderError, match=next(iter(changes))):
        options(**changes)


def test_workers_without_parsed_flags_are_refused(s4, monkeypatch):
    monkeypatch.setattr(loader.flags, "FLAGS", loader.flags.FlagValues())
    with pytest.raises(loader.LoaderError, match=r"absl.flags.FLAGS.mark_as_parsed\(\)"):
        loader.train_batches(s4, "train", options(workers=1))


def test_records_of_more_frames_than_asked_for_are_refused(avss):
    with pytest.raises(tfrecord.RecordError, match=r"clip test_0 has 10 frames, more than num_frames=5"):
        next(iter(loader.eval_batches(avss, "test", options("avss", num_frames=5))))
