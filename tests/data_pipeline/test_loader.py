"""The loader on records whose every pixel and sample is known."""

import io
import itertools
import json
import types

import numpy as np
import pytest
from PIL import Image

from data_pipeline import audio, audio_conditions, batch, clips, loader, records, schema, shards, tfrecord
from data_pipeline.loader import LoaderOptions

CATEGORIES = ("helicopter", "race_car", "lawn_mowing")
SIZE = (24, 32)


def encoded(pixels, kind):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return buffer.getvalue()


def make_record(task, split, number, size=SIZE, waveform=True, pre_masks=False):
    """A clip whose pixels, sound and masks follow from its number."""
    rng = np.random.default_rng(1000 * ("train", "val", "test").index(split) + number)
    total, kind = (10, "JPEG") if task == "avss" else (5, "PNG")
    count = 5 if task == "avss" and number % 2 else total
    annotated = 1 if task == "s4" and split == "train" else count
    frames = np.kron(rng.integers(0, 256, (count, size[0] // 4, size[1] // 4, 3)), np.ones((1, 4, 4, 1)))
    masks = rng.integers(0, 2, (annotated, *size)).astype(np.uint8)
    if task == "avss":
        masks *= np.uint8(1 + number % 70)
    log_mel = rng.normal(-2, 1, (total, 96, 64)).astype(np.float32)
    log_mel[count:] = 0
    return schema.Record(
        name=f"{split}_{number}",
        split=split,
        category=CATEGORIES[number % 3] if task == "s4" else "",
        subset="v2" if task == "avss" else "",
        frames=[encoded(frame.astype(np.uint8), kind) for frame in frames],
        masks=[schema.encode_mask(mask) for mask in masks],
        frame_valid=np.arange(total) < count,
        mask_valid=np.arange(total) < annotated,
        log_mel=log_mel,
        audio=rng.integers(-9000, 9000, 16000 * count).astype(np.int16) if waveform else np.zeros(0, np.int16),
        classes=np.setdiff1d(masks, [0]).astype(np.int64),
        pre_masks=[encoded(frame[::2, ::2, ::-1].astype(np.uint8), "PNG") for frame in frames] if pre_masks else [],
    )


def write_set(out, task, clips, **settings):
    """A converted set of `clips` = {split: number}, two shards a split."""
    folder = records.set_folder(out, task)
    folder.mkdir(parents=True)
    written = []
    for split, count in clips.items():
        for number, part in enumerate(np.array_split(np.arange(count), 2)):
            path = folder / f"{records.set_name(task)}-{split}.tfrecord-{number:05d}-of-00002"
            payloads = [schema.encode(make_record(task, split, int(i), **settings)) for i in part]
            tfrecord.write_shard(path, payloads, schema.describe)
            written.append(shards.Shard(path, split, tuple(part), f"{task}{split}{number}{clips}{settings}"))
    shards.write_metadata(folder, task, written, CATEGORIES if task == "s4" else (), {})
    return out


@pytest.fixture(scope="module")
def s4(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("s4"), "s4", {"train": 13, "val": 7})


@pytest.fixture(scope="module")
def avss(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("avss"), "avss", {"train": 4, "test": 4}, size=(48, 64))


def options(task="s4", **changes):
    return LoaderOptions(**{"task": task, "image_size": SIZE, "batch_size": 4, "threads": 1} | changes)


def take(iterator, count):
    return list(itertools.islice(iterator, count))


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def assert_same(left, right):
    assert len(left) == len(right)
    for mine, other in zip(left, right, strict=True):
        assert mine.keys() == other.keys()
        for name in mine:
            np.testing.assert_array_equal(mine[name], other[name], err_msg=name)


def rejoined(batches):
    """All clips of the batches, padding left out, one array an entry."""
    together = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
    return {name: array[together["clip_valid"]] for name, array in together.items()}


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


RANDOM = {"flip": True, "min_crop": 0.5}
VCT = {"flip": True, "scales": (0.5, 1.0, 2.0), "colour": True}


@pytest.mark.parametrize("stream", [{}, RANDOM, VCT], ids=["plain", "random", "as VCT"])
@pytest.mark.parametrize("work", [{}, {"cache": True}, {"threads": 0}], ids=str)
def test_a_resumed_stream_goes_on_bit_for_bit(s4, stream, work):
    whole = take(loader.train_batches(s4, "train", options(**stream)), 9)
    first = loader.train_batches(s4, "train", options(**stream, **work))
    assert_same(take(first, 5), whole[:5])
    state = json.loads(json.dumps(first.get_state()))
    assert state["next_index"] == 20
    resumed = loader.train_batches(s4, "train", options(**stream, **work))
    resumed.set_state(state)
    assert_same(take(resumed, 4), whole[5:])
    resumed.set_state(state)  # also after it has run
    assert_same(take(resumed, 1), whole[5:6])


def test_worker_processes_change_nothing(s4):
    here = take(loader.train_batches(s4, "train", options(**RANDOM)), 6)
    workers = options(**RANDOM, workers=2, cache=True)
    there = loader.train_batches(s4, "train", workers)
    assert_same(take(there, 3), here[:3])
    state = there.get_state()
    there.close()
    back = loader.train_batches(s4, "train", options(**RANDOM))
    back.set_state(state)
    assert_same(take(back, 3), here[3:])
    resumed = loader.train_batches(s4, "train", workers)
    resumed.set_state({"next_index": 8, "fingerprint": state["fingerprint"]})
    assert_same(take(resumed, 2), here[2:4])
    resumed.close()


def test_the_cache_is_not_disturbed_by_random_transforms(s4):
    plain = take(loader.train_batches(s4, "train", options(flip=True)), 8)
    assert_same(take(loader.train_batches(s4, "train", options(flip=True, cache=True)), 8), plain)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 7}, "seed was 0, is 7"),
        ({"batch_size": 2}, "batch_size was 4, is 2"),
        ({"image_size": (12, 16)}, r"image_size was \[24, 32\], is \[12, 16\]"),
        ({"flip": True, "audio": "silence"}, "audio was 'true', is 'silence'; flip was False, is True"),
        ({"scales": (0.5, 2.0), "colour": True}, r"colour was False, is True; scales was \[\], is \[0.5, 2.0\]"),
    ],
)
def test_a_state_of_other_settings_is_refused(s4, changes, named):
    state = loader.train_batches(s4, "train", options()).get_state()
    with pytest.raises(loader.StateError, match=named):
        loader.train_batches(s4, "train", options(**changes)).set_state(state)


def test_a_state_of_other_data_is_refused(s4, tmp_path):
    other = write_set(tmp_path, "s4", {"train": 6})
    state = loader.train_batches(s4, "train", options()).get_state()
    with pytest.raises(loader.StateError, match="clips was 13, is 6; records was"):
        loader.train_batches(other, "train", options()).set_state(state)


def test_a_state_does_not_depend_on_how_the_work_is_done(s4):
    state = loader.train_batches(s4, "train", options()).get_state()
    loader.train_batches(s4, "train", options(threads=3, buffer=1, cache=True)).set_state(state)


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


def heard(records_path, condition, split="val", task="s4"):
    return rejoined(list(loader.eval_batches(records_path, split, options(task, audio=condition))))["log_mel"]


def test_silence_is_what_the_front_end_gives_for_zeros(s4, avss):
    expected = audio.log_mel(np.zeros(5 * 16000), 16000)
    assert (heard(s4, "silence") == expected).all()
    short = heard(avss, "silence", "test", "avss")[1]
    np.testing.assert_array_equal(short[:5], expected)
    assert not short[5:].any()  # the zeros that fill up AVSS's clips of five seconds stay


def test_noise_has_the_asked_ratio_and_passes_the_front_end(s4):
    record = make_record("s4", "val", 2)
    np.testing.assert_array_equal(heard(s4, "noise:3"), heard(s4, "noise:3"))
    clean = audio.log_mel(record.audio / 32768.0, 16000)
    np.testing.assert_allclose(heard(s4, "noise:200")[2], clean, atol=1e-5)
    # White on white: the power of every band grows by 1 + 1 / ratio.
    gain = np.exp(heard(s4, "noise:-10")[2]).mean() / np.exp(clean).mean()
    assert gain == pytest.approx(np.sqrt(1 + 10), rel=0.03)


@pytest.mark.parametrize("seconds", [1.92, -0.96])
def test_a_shift_moves_the_patches_and_leaves_silence(s4, seconds):
    record = make_record("s4", "val", 1)
    by = round(seconds / 0.96)
    clean = audio.log_mel(record.audio / 32768.0, 16000)
    shifted = heard(s4, f"shift:{seconds}")[1]
    kept = slice(by, None) if by > 0 else slice(None, by)
    moved = slice(None, -by) if by > 0 else slice(-by, None)
    np.testing.assert_allclose(shifted[kept][1:-1], clean[moved][1:-1], atol=1e-6)
    vacated = shifted[0, 10] if by > 0 else shifted[-1, 80]
    assert (vacated == np.float32(np.log(0.01))).all()


def test_swap_and_off_screen_take_another_clips_audio(s4, avss):
    true = heard(s4, "true")
    np.testing.assert_array_equal(heard(s4, "swap"), np.roll(true, -3, axis=0))
    other = heard(s4, "off_screen")
    for index in range(7):
        lender = next(i for i in range(7) if np.array_equal(true[i], other[index]))
        assert lender % 3 != index % 3  # another category
    np.testing.assert_array_equal(
        heard(avss, "off_screen", "test", "avss"), np.roll(heard(avss, "true", "test", "avss"), -1, axis=0)
    )


def test_audio_that_the_records_cannot_give_is_refused(tmp_path):
    silent = write_set(tmp_path / "a", "s4", {"val": 2}, waveform=False)
    assert (heard(silent, "silence") == np.float32(np.log(0.01))).all()
    with pytest.raises(audio_conditions.AudioError, match=r"clip val_0 has no waveform.*convert again"):
        heard(silent, "shift:1")
    ms3 = write_set(tmp_path / "b", "ms3", {"val": 3})
    with pytest.raises(audio_conditions.AudioError, match="use audio=swap"):
        heard(ms3, "off_screen", task="ms3")


@pytest.mark.parametrize("text", ["loud", "noise", "noise:", "noise:nan", "swap:3", "shift:soon", ""])
def test_an_unknown_kind_of_audio_is_refused(text):
    with pytest.raises(audio_conditions.AudioError, match="is not one of true, silence"):
        options(audio=text)


@pytest.mark.parametrize(
    "changes",
    [
        {"task": "s5"},
        {"preprocess": "stretch"},
        {"min_crop": 0.0},
        {"batch_size": 0},
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


def flip_byte(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_flipped_byte_stops_the_run_with_its_place(tmp_path, workers):
    write_set(tmp_path, "s4", {"train": 4})
    shard = sorted(tmp_path.rglob("*.tfrecord-00001-of-00002"))[0]
    flip_byte(shard, 5000)
    batches = loader.train_batches(tmp_path, "train", options(workers=workers))
    with pytest.raises(tfrecord.RecordError, match=rf"{shard}, record 0, byte offset 0: the checksum"):
        next(batches)
    batches.close()


def test_records_of_another_schema_version_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(schema, "SCHEMA_VERSION", 2)
    monkeypatch.setattr(schema, "TFDS_VERSION", "2.0.0")
    write_set(tmp_path, "s4", {"train": 2})
    monkeypatch.undo()
    for place in (tmp_path, tmp_path / "avsbench_s4" / "2.0.0"):
        with pytest.raises(
            tfrecord.RecordError, match=r"version 2(.0.0)? of the record schema, this code reads version 1"
        ):
            loader.train_batches(place, "train", options())


def test_a_single_record_of_another_schema_version_is_refused(tmp_path, monkeypatch):
    write_set(tmp_path, "s4", {"val": 2})
    monkeypatch.setattr(schema, "SCHEMA_VERSION", 2)
    newer = schema.encode(make_record("s4", "val", 0))
    monkeypatch.undo()
    shard = sorted(tmp_path.rglob("*.tfrecord-00000-of-00002"))[0]
    tfrecord.write_shard(shard, [newer], lambda _: {"name": "x", "category": "", "classes": []})
    with pytest.raises(tfrecord.RecordError, match=rf"{shard}, record 0: this record was made by version 2"):
        next(iter(loader.eval_batches(tmp_path, "val", options())))


def test_sets_are_found_from_any_of_their_folders(s4, tmp_path):
    folder = records.set_folder(s4, "s4")
    assert {loader.num_clips(place, "val") for place in (s4, folder.parent, folder)} == {7}
    with pytest.raises(tfrecord.RecordError, match=r"no split 'dev'; it has train, val"):
        loader.num_clips(s4, "dev")
    with pytest.raises(tfrecord.RecordError, match="holds no converted set; make one: python -m data_pipeline"):
        loader.num_clips(tmp_path, "val")
    with pytest.raises(tfrecord.RecordError, match=r"no converted set of task 'ms3'"):
        loader.eval_batches(s4, "val", options("ms3"))
    with pytest.raises(tfrecord.RecordError, match=r"holds records of task 's4', not of 'ms3'"):
        loader.eval_batches(folder, "val", options("ms3"))


def test_several_sets_side_by_side_are_told_apart_by_task(tmp_path):
    for task in ("s4", "ms3"):
        write_set(tmp_path, task, {"val": 2})
    with pytest.raises(tfrecord.RecordError, match=r"holds several sets: name one of .*ms3.*s4"):
        loader.num_clips(tmp_path, "val")
    assert len(loader.eval_batches(tmp_path, "val", options("ms3"))) == 1


@pytest.mark.parametrize("damage", ["unfinished", "shard missing", "metadata damaged", "shard replaced"])
def test_sets_that_are_not_whole_are_refused(tmp_path, damage):
    write_set(tmp_path, "s4", {"val": 4})
    folder = records.set_folder(tmp_path, "s4")
    shard = sorted(folder.glob("*-00000-of-00002"))[0]
    match damage:
        case "unfinished":
            (folder / records.INFO_FILE).unlink()
            expected = "the conversion there has not finished: run the same command again"
        case "shard missing":
            shard.unlink()
            expected = f"{shard} is missing; convert the data set again"
        case "metadata damaged":
            (folder / records.INFO_FILE).write_text("{")
            expected = "was not written by data_pipeline.convert, or is damaged"
        case "shard replaced":
            tfrecord.write_shard(shard, [schema.encode(make_record("s4", "val", 0))], schema.describe)
            expected = "the shards of 'val' hold 3 clips, dataset_info.json says 4"
    with pytest.raises(tfrecord.RecordError, match=expected):
        loader.eval_batches(tmp_path, "val", options())
