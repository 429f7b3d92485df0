"""AVSBench's published layouts: what is found, what is read, and what is said of files that are missing or damaged."""

import csv
import json
import os
import pickle
import re

import golden
import numpy as np
import pytest
import soundfile
from PIL import Image

from data_pipeline import audio, avsbench, labels, rawfiles, torch_file
from data_pipeline.avsbench import DataError
from data_pipeline.problems import SHOWN

SIZE = (12, 8)  # width, height
RATE = 16000


def image(path, seed, size=SIZE):
    """A file of smooth noise; the same numbers are its decoded pixels where the format is lossless."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)


def mask(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def binary(seed):
    return np.random.default_rng(seed).integers(0, 2, SIZE[::-1]).astype(np.uint8)


def classes(seed):
    return np.random.default_rng(seed).integers(0, 71, SIZE[::-1]).astype(np.uint8)


def log_mel(seed):
    return np.random.default_rng(seed).standard_normal((5, 1, 96, 64)).astype(np.float32)


def table(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def write_s4(root):
    clips = [("v0", "helicopter", "train"), ("v1", "race_car", "val"), ("v2", "race_car", "test")]
    for name, category, split in clips:
        inner = f"{split}/{category}/{name}"
        for k in range(1, 6):
            image(root / "s4_data/visual_frames" / inner / f"{name}_{k}.png", k)
            if split != "train" or k == 1:
                mask(root / "s4_data/gt_masks" / inner / f"{name}_{k}.png", binary(k) * np.uint8(255))
        path = root / "s4_data/audio_log_mel" / f"{inner}.pkl"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch_file.save_pickled_tensor(path, log_mel(len(path.name)))
    rows = [(name, start, category, split) for start, (name, category, split) in enumerate(clips)]
    table(root / "s4_meta_data.csv", ("name", "start_time", "category", "split"), *rows)


def write_ms3(root):
    clips = [("a-b", "train"), ("c", "val"), ("d", "test")]
    for name, split in clips:
        for k in range(1, 6):
            image(root / f"ms3_data/visual_frames/{name}/{name}.mp4_{k}.png", k)
            mask(root / f"ms3_data/gt_masks/{split}/{name}/{name}_{k}.png", binary(k) * np.uint8(255))
        for kind, file in (("audio_log_mel", f"{name}.pkl"), ("audio_wav", f"{name}.wav")):
            (root / "ms3_data" / kind / split).mkdir(parents=True, exist_ok=True)
            path = root / "ms3_data" / kind / split / file
            if kind == "audio_wav":
                soundfile.write(path, np.arange(5 * RATE).astype(np.int16), RATE)
            else:
                torch_file.save_pickled_tensor(path, log_mel(3))
    table(root / "ms3_meta_data.csv", ("video_id", "split"), *clips)


def write_avss(root):
    clips = [
        ("u0", "v1s", "train", 5, 1),
        ("u1", "v1s", "val", 5, 5),
        ("u2", "v1m", "train", 5, 5),
        ("u3", "v2", "test", 10, 10),
    ]
    for name, subset, _, frames, masks in clips:
        for k in range(frames):
            image(root / subset / name / "frames" / f"{k}.jpg", k)
        for k in range(masks):
            mask(root / subset / name / "labels_rgb" / f"{k}.png", labels.indices_to_colours(classes(k)))
        noise = np.random.default_rng(0).integers(-9000, 9000, (frames * 44100, 2), np.int16)
        soundfile.write(root / subset / name / "audio.wav", noise, 44100)
    rows = [("x", name, subset, split) for name, subset, split, _, _ in clips]
    table(root / "metadata.csv", ("vid", "uid", "label", "split"), *rows)
    (root / "label2idx.json").write_text(json.dumps({name: i for i, name in enumerate(labels.AVSS_CLASSES)}))


WRITERS = {"s4": write_s4, "ms3": write_ms3, "avss": write_avss}


@pytest.fixture(params=avsbench.TASKS)
def whole(request, tmp_path):
    """(task, folder) of a whole data set."""
    WRITERS[request.param](tmp_path)
    return request.param, tmp_path


@pytest.fixture
def s4(tmp_path):
    write_s4(tmp_path)
    return tmp_path


@pytest.fixture
def ms3(tmp_path):
    write_ms3(tmp_path)
    return tmp_path


@pytest.fixture
def avss(tmp_path):
    write_avss(tmp_path)
    return tmp_path


# Whole data


def test_nothing_is_wrong_with_whole_data(whole):
    task, root = whole
    samples = avsbench.find(task, root)
    assert avsbench.check(samples) == [] and avsbench.check(samples[:1]) == []
    for sample in samples:
        clip = avsbench.read(sample)
        assert clip.log_mel.shape == (sample.num_frames, 96, 64) and clip.log_mel.dtype == np.float32
        assert len(sample.frame_valid) == len(sample.mask_valid) == sample.num_frames
        assert clip.frames == tuple(path.read_bytes() for path in sample.frames)
        assert sum(sample.frame_valid) == len(clip.frames) and sum(sample.mask_valid) == len(clip.masks)
        assert {(mask.shape, mask.dtype.name) for mask in clip.masks} == {(SIZE[::-1], "uint8")}


def test_one_split(whole):
    task, root = whole
    everything = avsbench.find(task, root)
    parts = [avsbench.find(task, os.fspath(root), split) for split in avsbench.SPLITS]
    assert sorted((s for part in parts for s in part), key=everything.index) == everything
    assert all(sample.split == split for split, part in zip(avsbench.SPLITS, parts, strict=True) for sample in part)


def test_s4(s4):
    train, val, _ = avsbench.find("s4", s4)
    assert (train.name, train.category, train.split, train.subset) == ("v0", "helicopter", "train", "")
    assert train.frames[4] == s4 / "s4_data/visual_frames/train/helicopter/v0/v0_5.png"
    assert train.mask_valid == (True, False, False, False, False) and train.frame_valid == (True,) * 5
    assert val.mask_valid == (True,) * 5
    clip = avsbench.read(val)
    np.testing.assert_array_equal(clip.masks, [binary(k) for k in range(1, 6)])
    np.testing.assert_array_equal(clip.log_mel, log_mel(len("v1.pkl"))[:, 0])
    assert clip.waveform is None and val.wav is None


def test_only_the_first_mask_of_s4_training_clips_is_read(s4):
    path = s4 / "s4_data/gt_masks/train/helicopter/v0/v0_2.png"
    path.write_text("never opened")
    (sample,) = avsbench.find("s4", s4, "train")
    assert path not in sample.masks and avsbench.check([sample]) == []


def test_ms3(ms3):
    train, *_ = avsbench.find("ms3", ms3)
    assert train.frames[0] == ms3 / "ms3_data/visual_frames/a-b/a-b.mp4_1.png"
    assert train.mask_valid == (True,) * 5 and train.category == ""
    clip = avsbench.read(train)
    np.testing.assert_array_equal(clip.masks, [binary(k) for k in range(1, 6)])
    np.testing.assert_array_equal(clip.waveform, np.arange(5 * RATE).astype(np.int16))


def test_avss(avss):
    v1s, v1s_val, v1m, v2 = samples = avsbench.find("avss", avss)
    assert [sample.subset for sample in samples] == ["v1s", "v1s", "v1m", "v2"]
    assert [sum(sample.frame_valid) for sample in samples] == [5, 5, 5, 10]
    assert [sum(sample.mask_valid) for sample in samples] == [1, 5, 5, 10]
    assert v1s.mask_valid == (True, *[False] * 9) and v1m.frame_valid == (True,) * 5 + (False,) * 5
    assert v2.frames[9] == avss / "v2/u3/frames/9.jpg"
    short, long = avsbench.read(v1s_val), avsbench.read(v2)
    np.testing.assert_array_equal(short.masks, [classes(k) for k in range(5)])
    samples, rate = audio.read_wav(v1s_val.wav)
    np.testing.assert_array_equal(short.log_mel[:5], audio.log_mel(samples / 32768, rate))
    assert not short.log_mel[5:].any() and long.log_mel[9].any()
    assert short.waveform.dtype == np.int16 and short.waveform.shape == (5 * RATE,)


@pytest.mark.parametrize(
    ("task", "folder", "name", "frames"),
    [
        ("s4", "s4_data/pre_SAM_mask/train/helicopter/v0", "v0_{}", range(1, 6)),
        ("ms3", "ms3_data/pre_SAM_mask/a-b", "a-b.mp4_{}", range(1, 6)),
        ("avss", "pre_SAM_mask/AVSBench_semantic/v2/u3/frames", "{}", range(10)),
    ],
)
def test_pre_segmented_images_are_read_where_they_are(tmp_path, task, folder, name, frames):
    WRITERS[task](tmp_path)
    paths = [tmp_path / folder / f"{name.format(k)}_mask_color.png" for k in frames]
    assert not any(sample.pre_masks for sample in avsbench.find(task, tmp_path))
    for k, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        image(path, k)
    (sample,) = [sample for sample in avsbench.find(task, tmp_path) if sample.pre_masks]
    assert sample.pre_masks == tuple(paths) and avsbench.check([sample]) == []
    assert avsbench.read(sample).pre_masks == tuple(path.read_bytes() for path in paths)
    paths[2].unlink()
    (problem,) = avsbench.check([sample])
    assert problem.file == paths[2]


def test_binary_masks_decode_as_published():
    case = golden.load("avsegformer/data_avss")
    stored = Image.fromarray((case.inputs["mask_s4"] * 255).astype(np.uint8))
    for task, name, scale in (("s4", "mask_mode_1", 1), ("ms3", "mask_mode_P", 255)):
        indices = Image.fromarray(rawfiles.mask_indices(stored, "mask.png", task))
        enlarged = np.asarray(indices.resize((512, 512), Image.Resampling.NEAREST)) * scale
        assert case.check(f"s4/{name}_512", enlarged).max_abs == 0


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P"])
def test_s4_masks_of_any_png_kind(mode):
    pixels = binary(0) * np.uint8(255)
    indices = rawfiles.mask_indices(Image.fromarray(pixels).convert(mode), "mask.png", "s4")
    np.testing.assert_array_equal(indices, binary(0))


def test_tables_from_other_programs_are_read(s4):
    text = (s4 / "s4_meta_data.csv").read_text()
    (s4 / "s4_meta_data.csv").write_text("\ufeff" + text.replace("\n", "\r\n") + "\n,,,\n\n", "utf-8")
    assert [sample.name for sample in avsbench.find("s4", s4)] == ["v0", "v1", "v2"]


# Bad data


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def make_log_mel_run_code(path):
    class Run:
        def __reduce__(self):
            return os.mkdir, (str(path.parent / "was_run"),)

    path.write_bytes(pickle.dumps(Run()))


def paint_unknown_colour(path):
    colours = np.asarray(Image.open(path)).copy()
    colours[0, 0] = (1, 2, 3)
    mask(path, colours)


def tensor(array):
    return lambda path: torch_file.save_pickled_tensor(path, array)


def wav(*shape):
    return lambda path: soundfile.write(path, np.zeros(shape, np.int16), RATE)


def remove(path):
    path.unlink()


def empty(path):
    path.write_bytes(b"")


def narrow(path):
    image(path, 0, (6, 8))


def paint_grey_one(path):
    mask(path, binary(1))


S4_FRAME = "s4_data/visual_frames/train/helicopter/v0/v0_2.png"
S4_MASK = "s4_data/gt_masks/val/race_car/v1/v1_3.png"
S4_LOG_MEL = "s4_data/audio_log_mel/val/race_car/v1.pkl"
MS3_MASK = "ms3_data/gt_masks/val/c/c_1.png"
MS3_LOG_MEL = "ms3_data/audio_log_mel/val/c.pkl"
MS3_WAV = "ms3_data/audio_wav/val/c.wav"
AVSS_FRAME = "v2/u3/frames/7.jpg"
AVSS_MASK = "v1m/u2/labels_rgb/4.png"
AVSS_WAV = "v1m/u2/audio.wav"

DAMAGES = [
    ("s4", "v0", S4_FRAME, remove, "missing"),
    ("s4", "v0", S4_FRAME, empty, "empty"),
    ("s4", "v0", S4_FRAME, truncate, "cannot be decoded"),
    ("s4", "v1", S4_MASK, remove, "missing"),
    ("s4", "v1", S4_MASK, truncate, "cannot be decoded"),
    ("s4", "v1", S4_MASK, narrow, "6 x 8 where its frame is 12 x 8"),
    ("s4", "v1", S4_LOG_MEL, remove, "missing"),
    ("s4", "v1", S4_LOG_MEL, truncate, "no readable pickle"),
    ("s4", "v1", S4_LOG_MEL, make_log_mel_run_code, r"asks for 'posix\.mkdir'"),
    ("ms3", "c", MS3_MASK, paint_grey_one, "values 1 beside 0 and 255"),
    ("ms3", "c", MS3_LOG_MEL, tensor(log_mel(0)[:4]), r"shape \(4, 1, 96, 64\)"),
    ("ms3", "c", MS3_LOG_MEL, tensor(log_mel(0).astype(np.int64)), "holds int64"),
    ("ms3", "c", MS3_LOG_MEL, tensor(log_mel(0) * np.float32(np.nan)), "not finite"),
    ("ms3", "c", MS3_WAV, wav(0, 1), "0 samples"),
    ("avss", "u3", AVSS_FRAME, truncate, "cannot be decoded"),
    ("avss", "u2", AVSS_MASK, remove, "missing"),
    ("avss", "u2", AVSS_MASK, paint_unknown_colour, r"no class has: \(1, 2, 3\)"),
    ("avss", "u2", AVSS_WAV, remove, "missing"),
    ("avss", "u2", AVSS_WAV, wav(0, 1), "0 samples"),
    ("avss", "u2", AVSS_WAV, wav(RATE, 3), "3 channels"),
    ("avss", "u2", AVSS_WAV, wav(169200), "11 examples .* takes 10"),
]


@pytest.mark.parametrize(("task", "clip", "file", "damage", "what"), DAMAGES)
def test_damage_is_named_with_its_mend(tmp_path, task, clip, file, damage, what):
    WRITERS[task](tmp_path)
    damage(tmp_path / file)
    samples = avsbench.find(task, tmp_path)
    (problem,) = avsbench.check(samples)
    assert (problem.clip, str(problem.file)) == (clip, str(tmp_path / file))
    assert re.search(what, problem.what)
    error = str(DataError([problem]))
    assert f"clip {clip}: {tmp_path / file}: {problem.what}. To mend it: {problem.mend}." in error
    assert not list(tmp_path.rglob("was_run"))


@pytest.mark.parametrize(("task", "clip", "file", "damage", "what"), DAMAGES)
def test_reading_refuses_what_it_decodes(tmp_path, task, clip, file, damage, what):
    WRITERS[task](tmp_path)
    damage(tmp_path / file)
    (sample,) = (sample for sample in avsbench.find(task, tmp_path) if sample.name == clip)
    if damage is narrow or (damage is truncate and file in (S4_FRAME, AVSS_FRAME)):
        avsbench.read(sample)  # frames stay encoded: only the check looks into them
    else:
        with pytest.raises(DataError, match=what):
            avsbench.read(sample)


def test_everything_is_listed_at_once(s4):
    folder = s4 / "s4_data"
    truncate(folder / "visual_frames/val/race_car/v1/v1_1.png")
    (folder / "gt_masks/val/race_car/v1/v1_1.png").unlink()
    (folder / "audio_log_mel/val/race_car/v1.pkl").unlink()
    truncate(folder / "gt_masks/test/race_car/v2/v2_5.png")
    samples = avsbench.find("s4", s4)
    problems = avsbench.check(samples)
    assert [(problem.clip, os.path.basename(problem.file)) for problem in problems] == [
        ("v1", "v1_1.png"),
        ("v1", "v1_1.png"),
        ("v1", "v1.pkl"),
        ("v2", "v2_5.png"),
    ]
    with pytest.raises(DataError) as error:
        avsbench.read(samples[1])
    assert len(error.value.problems) == 2  # the mask and the log-mel: frames are not decoded


def test_long_lists_are_cut_in_the_message_only(s4):
    for path in (s4 / "s4_data").rglob("*.*"):
        path.unlink()
    samples = avsbench.find("s4", s4) * 3
    problems = avsbench.check(samples)
    assert len(problems) == 3 * (5 + 1 + 1 + 2 * (5 + 5 + 1))
    error = DataError(problems)
    assert len(error.problems) == len(problems)
    assert str(error).startswith(f"{len(problems)} problems in the raw data:\n")
    assert str(error).count("\n") == SHOWN + 1 and str(error).endswith(f"... and {len(problems) - SHOWN} more")


def test_errors_travel_between_processes(s4):
    (s4 / "s4_data/gt_masks/val/race_car/v1/v1_3.png").unlink()
    error = DataError(avsbench.check(avsbench.find("s4", s4)))
    again = pickle.loads(pickle.dumps(error))
    assert again.problems == error.problems and str(again) == str(error)


# Bad tables


@pytest.mark.parametrize(
    ("task", "file", "old", "new", "what"),
    [
        (
            "s4",
            "s4_meta_data.csv",
            "split",
            "part",
            "lacks the column 'split' .*'name', 'start_time', 'category', 'part'",
        ),
        ("s4", "s4_meta_data.csv", "category,split", "kind,part", "lacks the columns 'category', 'split'"),
        (
            "s4",
            "s4_meta_data.csv",
            "race_car,val",
            "race_car,dev",
            "line 3: split is 'dev', not one of train, val, test",
        ),
        ("s4", "s4_meta_data.csv", "v1,1,race_car,val", "v1,1", "line 3 has 2 cells where the header has 4"),
        ("s4", "s4_meta_data.csv", "v1,1,race_car,val", "v1,1,,val", "clip v1 has no category"),
        ("s4", "s4_meta_data.csv", "v1,1,race_car,val", ",1,race_car,val", "line 3: the clip has no name"),
        ("s4", "s4_meta_data.csv", "v2,2,race_car,test", "v1,2,race_car,val", "line 4 lists 'v1' again, after line 3"),
        ("ms3", "ms3_meta_data.csv", "split", "", "lacks the column 'split'"),
        ("avss", "metadata.csv", "uid", "id", "lacks the column 'uid'"),
        ("avss", "metadata.csv", ",v2,", ",v3,", "line 5: label is 'v3', not one of v1s, v1m, v2"),
        ("avss", "label2idx.json", '"axe": 3, ', "", "70 entries; 71 classes"),
        ("avss", "label2idx.json", "{", "", "no JSON"),
    ],
)
def test_bad_tables_are_named(tmp_path, task, file, old, new, what):
    WRITERS[task](tmp_path)
    text = (tmp_path / file).read_text()
    assert text.count(old) >= 1
    (tmp_path / file).write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=f"{file}: .*{what}") as error:
        avsbench.find(task, tmp_path)
    assert len(error.value.problems) == 1 and "To mend it: " in str(error.value)


def test_missing_tables_are_named(tmp_path):
    with pytest.raises(DataError, match=r"s4_meta_data\.csv: the file is missing"):
        avsbench.find("s4", tmp_path)
    with pytest.raises(DataError, match="2 problems") as error:
        avsbench.find("avss", tmp_path)
    assert "label2idx.json" in str(error.value) and "metadata.csv" in str(error.value)
    (tmp_path / "ms3_meta_data.csv").write_text("video_id,split\n")
    with pytest.raises(DataError, match="lists no clips"):
        avsbench.find("ms3", tmp_path)
    (tmp_path / "ms3_meta_data.csv").write_bytes(b"video_id,split\n\xff,train\n")
    with pytest.raises(DataError, match="UTF-8"):
        avsbench.find("ms3", tmp_path)


def test_unknown_tasks_and_splits_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'s5'"):
        avsbench.find("s5", tmp_path)
    with pytest.raises(ValueError, match="'dev'"):
        avsbench.find("s4", tmp_path, "dev")
