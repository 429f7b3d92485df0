"""AVSBench's published layouts: what is found and what is read."""

import os

import golden
import numpy as np
import pytest
from PIL import Image

from data_pipeline import audio, avsbench, rawfiles
from tests.data_pipeline.raw_layouts import RATE, SIZE, WRITERS, binary, classes, image, log_mel, write_avss, write_ms3


@pytest.fixture(params=avsbench.TASKS)
def task_and_root(request, tmp_path):
    """(task, folder) of a whole data set."""
    WRITERS[request.param](tmp_path)
    return request.param, tmp_path


@pytest.fixture
def raw_ms3(tmp_path):
    write_ms3(tmp_path)
    return tmp_path


@pytest.fixture
def raw_avss(tmp_path):
    write_avss(tmp_path)
    return tmp_path


def test_nothing_is_wrong_with_whole_data(task_and_root):
    task, root = task_and_root
    samples = avsbench.find(task, root)
    assert avsbench.check(samples) == [] and avsbench.check(samples[:1]) == []
    for sample in samples:
        clip = avsbench.read(sample)
        assert clip.log_mel.shape == (sample.num_frames, 96, 64) and clip.log_mel.dtype == np.float32
        assert len(sample.frame_valid) == len(sample.mask_valid) == sample.num_frames
        assert clip.frames == tuple(path.read_bytes() for path in sample.frames)
        assert sum(sample.frame_valid) == len(clip.frames) and sum(sample.mask_valid) == len(clip.masks)
        assert {(mask.shape, mask.dtype.name) for mask in clip.masks} == {(SIZE[::-1], "uint8")}


def test_one_split(task_and_root):
    task, root = task_and_root
    everything = avsbench.find(task, root)
    parts = [avsbench.find(task, os.fspath(root), split) for split in avsbench.SPLITS]
    assert sorted((s for part in parts for s in part), key=everything.index) == everything
    assert all(sample.split == split for split, part in zip(avsbench.SPLITS, parts, strict=True) for sample in part)


def test_s4(raw_s4):
    train, val, _ = avsbench.find("s4", raw_s4)
    assert (train.name, train.category, train.split, train.subset) == ("v0", "helicopter", "train", "")
    assert train.frames[4] == raw_s4 / "s4_data/visual_frames/train/helicopter/v0/v0_5.png"
    assert train.mask_valid == (True, False, False, False, False) and train.frame_valid == (True,) * 5
    assert val.mask_valid == (True,) * 5
    clip = avsbench.read(val)
    np.testing.assert_array_equal(clip.masks, [binary(k) for k in range(1, 6)])
    np.testing.assert_array_equal(clip.log_mel, log_mel(len("v1.pkl"))[:, 0])
    assert clip.waveform is None and val.wav is None


def test_only_the_first_mask_of_s4_training_clips_is_read(raw_s4):
    path = raw_s4 / "s4_data/gt_masks/train/helicopter/v0/v0_2.png"
    path.write_text("never opened")
    (sample,) = avsbench.find("s4", raw_s4, "train")
    assert path not in sample.masks and avsbench.check([sample]) == []


def test_ms3(raw_ms3):
    train, *_ = avsbench.find("ms3", raw_ms3)
    assert train.frames[0] == raw_ms3 / "ms3_data/visual_frames/a-b/a-b.mp4_1.png"
    assert train.mask_valid == (True,) * 5 and train.category == ""
    clip = avsbench.read(train)
    np.testing.assert_array_equal(clip.masks, [binary(k) for k in range(1, 6)])
    np.testing.assert_array_equal(clip.waveform, np.arange(5 * RATE).astype(np.int16))


def test_avss(raw_avss):
    v1s, v1s_val, v1m, v2 = samples = avsbench.find("avss", raw_avss)
    assert [sample.subset for sample in samples] == ["v1s", "v1s", "v1m", "v2"]
    assert [sum(sample.frame_valid) for sample in samples] == [5, 5, 5, 10]
    assert [sum(sample.mask_valid) for sample in samples] == [1, 5, 5, 10]
    assert v1s.mask_valid == (True, *[False] * 9) and v1m.frame_valid == (True,) * 5 + (False,) * 5
    assert v2.frames[9] == raw_avss / "v2/u3/frames/9.jpg"
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


def test_tables_from_other_programs_are_read(raw_s4):
    text = (raw_s4 / "s4_meta_data.csv").read_text()
    (raw_s4 / "s4_meta_data.csv").write_text("\ufeff" + text.replace("\n", "\r\n") + "\n,,,\n\n", "utf-8")
    assert [sample.name for sample in avsbench.find("s4", raw_s4)] == ["v0", "v1", "v2"]


def test_unknown_tasks_and_splits_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'s5'"):
        avsbench.find("s5", tmp_path)
    with pytest.raises(ValueError, match="'dev'"):
        avsbench.find("s4", tmp_path, "dev")
