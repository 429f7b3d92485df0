"""AVSBench's files and tables, missing or damaged: what is said of them."""

import os
import pickle
import re

import numpy as np
import pytest
import soundfile
from PIL import Image

from data_pipeline import avsbench, torch_file
from data_pipeline.avsbench import DataError
from data_pipeline.problems import SHOWN
from tests.data_pipeline.raw_layouts import RATE, WRITERS, binary, image, log_mel, mask


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


def not_finite(path):
    soundfile.write(path, np.array([0.0, np.nan, 0.5]), RATE, subtype="FLOAT")


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
    ("s4", "v0", S4_FRAME, narrow, "6 x 8 where the clip's first frame is 12 x 8"),
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
    ("ms3", "c", MS3_WAV, not_finite, "samples that are not finite"),
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


def test_everything_is_listed_at_once(raw_s4):
    folder = raw_s4 / "s4_data"
    truncate(folder / "visual_frames/val/race_car/v1/v1_1.png")
    (folder / "gt_masks/val/race_car/v1/v1_1.png").unlink()
    (folder / "audio_log_mel/val/race_car/v1.pkl").unlink()
    truncate(folder / "gt_masks/test/race_car/v2/v2_5.png")
    samples = avsbench.find("s4", raw_s4)
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


def test_long_lists_are_cut_in_the_message_only(raw_s4):
    for path in (raw_s4 / "s4_data").rglob("*.*"):
        path.unlink()
    samples = avsbench.find("s4", raw_s4) * 3
    problems = avsbench.check(samples)
    assert len(problems) == 3 * (5 + 1 + 1 + 2 * (5 + 5 + 1))
    error = DataError(problems)
    assert len(error.problems) == len(problems)
    assert str(error).startswith(f"{len(problems)} problems in the raw data:\n")
    assert str(error).count("\n") == SHOWN + 1 and str(error).endswith(f"... and {len(problems) - SHOWN} more")


def test_errors_travel_between_processes(raw_s4):
    (raw_s4 / "s4_data/gt_masks/val/race_car/v1/v1_3.png").unlink()
    error = DataError(avsbench.check(avsbench.find("s4", raw_s4)))
    again = pickle.loads(pickle.dumps(error))
    assert again.problems == error.problems and str(again) == str(error)


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


def test_a_quotation_mark_left_open_is_named(raw_s4):
    """All that follows is then one cell, for which the csv module has a limit."""
    path = raw_s4 / "s4_meta_data.csv"
    path.write_text(path.read_text().replace("race_car,val", 'race_car,"val') + "more,0,race_car,test\n" * 10_000)
    with pytest.raises(DataError, match=r"s4_meta_data\.csv: line \d+ cannot be read as csv .*mark left open"):
        avsbench.find("s4", raw_s4)


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
