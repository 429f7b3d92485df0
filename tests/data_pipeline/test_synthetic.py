"""Synthetic clips: the same everywhere, in the published layouts, with truth in the sound and none in the pictures."""

import csv
import hashlib
import json
import wave

import numpy as np
import pytest
from PIL import Image

from data_pipeline import audio, labels, synthetic, torch_file
from data_pipeline.synthetic_clip import PATCH_SAMPLES
from data_pipeline.synthetic_kinds import KINDS

SIZE = (48, 64)


def digest(clip):
    arrays = (clip.frames, clip.masks, clip.owner, clip.sounding, clip.waveform.astype("<i2"))
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()[:16]


def files(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def many():
    """Clips of each task, by task."""
    return {
        task: [synthetic.make_clip(task, "train", i, 3, SIZE) for i in range(120)] for task in ("s4", "ms3", "avss")
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A small raw set of each task, by task."""
    folder = tmp_path_factory.mktemp("raw")
    for task in ("s4", "ms3", "avss"):
        synthetic.write(task, folder / task, {"train": 3, "val": 3, "test": 1}, SIZE, seed=5, processes=1)
    return folder


# ---- the same everywhere ----


@pytest.mark.parametrize(
    ("task", "index", "expected"),
    [
        ("s4", 0, "f04de5e05423eb20"),
        ("ms3", 7, "ffe31ede4e8d15dc"),
        ("avss", 1, "9fd802332ad0e832"),
        ("avss", 2, "4ccdec49089ce359"),
    ],
)
def test_a_seed_always_gives_this_clip(task, index, expected):
    assert digest(synthetic.make_clip(task, "train", index, 11, (40, 56))) == expected


def test_a_clip_depends_on_every_argument():
    clips = [
        synthetic.make_clip(*arguments, SIZE)
        for arguments in (("s4", "train", 0, 0), ("s4", "val", 0, 0), ("s4", "train", 1, 0), ("s4", "train", 0, 1))
    ]
    clips.append(synthetic.make_clip("ms3", "train", 0, 0, SIZE))
    assert len({clip.name for clip in clips}) == len({digest(clip) for clip in clips}) == 5


def test_the_scene_does_not_depend_on_the_size():
    small, large = (synthetic.make_clip("ms3", "val", 2, 0, size) for size in ((48, 64), (192, 256)))
    assert small.kinds == large.kinds
    np.testing.assert_array_equal(small.waveform, large.waveform)
    assert np.mean(small.owner == large.owner[:, 2::4, 2::4]) > 0.93


def test_files_do_not_depend_on_the_number_of_processes(written, tmp_path):
    synthetic.write("ms3", tmp_path, {"train": 3, "val": 3, "test": 1}, SIZE, seed=5, processes=2)
    assert files(tmp_path) == files(written / "ms3")


# ---- the published layouts ----


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def image(path, mode):
    with Image.open(path) as opened:
        assert opened.mode == mode
        return np.asarray(opened)


def wav(path):
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16000)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def check_sound(wav_path, log_mel_path, waveform):
    np.testing.assert_array_equal(wav(wav_path), waveform)
    stored = torch_file.load(log_mel_path)
    assert stored.shape == (5, 1, 96, 64) and stored.dtype == np.float32
    np.testing.assert_allclose(stored[:, 0], audio.log_mel(waveform / 32768.0, 16000), atol=1e-6)


def test_s4_layout(written):
    root, expected = written / "s4", {"s4_meta_data.csv", "synthetic.json"}
    rows = table(root / "s4_meta_data.csv")
    assert list(rows[0]) == ["name", "start", "category", "split"]
    assert [row["split"] for row in rows] == ["train"] * 3 + ["val"] * 3 + ["test"]
    for i, row in enumerate(rows):
        clip = synthetic.make_clip("s4", row["split"], i % 3, 5, SIZE)
        assert (row["name"], row["category"]) == (clip.name, clip.category)
        inner = f"{clip.split}/{clip.category}/{clip.name}"
        for k in range(1, 6):
            frame = f"s4_data/visual_frames/{inner}/{clip.name}_{k}.png"
            np.testing.assert_array_equal(image(root / frame, "RGB"), clip.frames[k - 1])
            expected.add(frame)
            if k == 1 or clip.split != "train":
                mask = f"s4_data/gt_masks/{inner}/{clip.name}_{k}.png"
                np.testing.assert_array_equal(image(root / mask, "L"), 255 * clip.masks[k - 1])
                expected.add(mask)
        sound = f"s4_data/audio_wav/{inner}.wav", f"s4_data/audio_log_mel/{inner}.pkl"
        check_sound(root / sound[0], root / sound[1], clip.waveform)
        expected.update(sound)
    assert set(files(root)) == expected


def test_ms3_layout(written):
    root, expected = written / "ms3", {"ms3_meta_data.csv", "synthetic.json"}
    rows = table(root / "ms3_meta_data.csv")
    assert list(rows[0]) == ["name", "split"]
    for i, row in enumerate(rows):
        clip = synthetic.make_clip("ms3", row["split"], i % 3, 5, SIZE)
        assert row["name"] == clip.name
        for k in range(1, 6):
            frame = f"ms3_data/visual_frames/{clip.name}/{clip.name}.mp4_{k}.png"
            mask = f"ms3_data/gt_masks/{clip.split}/{clip.name}/{clip.name}_{k}.png"
            np.testing.assert_array_equal(image(root / frame, "RGB"), clip.frames[k - 1])
            np.testing.assert_array_equal(image(root / mask, "L"), 255 * clip.masks[k - 1])
            expected.update((frame, mask))
        inner = f"{clip.split}/{clip.name}"
        sound = f"ms3_data/audio_wav/{inner}.wav", f"ms3_data/audio_log_mel/{inner}.pkl"
        check_sound(root / sound[0], root / sound[1], clip.waveform)
        expected.update(sound)
    assert set(files(root)) == expected


def test_avss_layout(written):
    root, expected = written / "avss", {"metadata.csv", "label2idx.json", "synthetic.json"}
    names = json.loads((root / "label2idx.json").read_text())
    assert list(names) == list(labels.AVSS_CLASSES) and list(names.values()) == list(range(71))
    rows = table(root / "metadata.csv")
    assert [row["label"] for row in rows] == ["v1s", "v1m", "v2"] * 2 + ["v1s"]
    for i, row in enumerate(rows):
        clip = synthetic.make_clip("avss", row["split"], i % 3, 5, SIZE)
        folder = f"{clip.subset}/{clip.name}"
        assert (row["uid"], row["label"]) == (clip.name, clip.subset)
        num_frames = 10 if clip.subset == "v2" else 5
        num_masks = 1 if (clip.subset, clip.split) == ("v1s", "train") else num_frames
        for k in range(num_frames):
            expected.add(f"{folder}/frames/{k}.jpg")
            near = image(root / folder / "frames" / f"{k}.jpg", "RGB").astype(int) - clip.frames[k]
            assert np.abs(near).mean() < 12  # JPEG
        for k in range(num_masks):
            expected.add(f"{folder}/labels_rgb/{k}.png")
            colours = image(root / folder / "labels_rgb" / f"{k}.png", "RGB")
            np.testing.assert_array_equal(colours, labels.palette()[clip.masks[k]])
        np.testing.assert_array_equal(wav(root / folder / "audio.wav"), clip.waveform)
        assert len(clip.waveform) == 16000 * num_frames
        expected.add(f"{folder}/audio.wav")
    assert set(files(root)) == expected


def test_splits_share_nothing(written):
    for task in ("s4", "ms3", "avss"):
        contents = [content for name, content in files(written / task).items() if name.endswith(".wav")]
        assert len(set(contents)) == 7


def test_writing_again(written, tmp_path):
    clips = {"train": 2}
    synthetic.write("avss", tmp_path, clips, SIZE, processes=1)
    before = files(tmp_path)
    (tmp_path / "v1s" / "avss_train_0_000000" / "audio.wav").unlink()
    synthetic.write("avss", tmp_path, clips, SIZE, processes=1)  # whole by its table: left as it is
    (tmp_path / "metadata.csv").unlink()
    synthetic.write("avss", tmp_path, clips, SIZE, processes=1)  # cut short: written anew
    assert files(tmp_path) == before
    for other in ({"seed": 1}, {"clips": {"train": 3}}, {"size": (64, 64)}):
        with pytest.raises(FileExistsError, match=r"metadata\.csv: the folder already holds another avss set"):
            synthetic.write(**{"task": "avss", "root": tmp_path, "clips": clips, "size": SIZE} | other)
    (tmp_path / "synthetic.json").unlink()  # as in a real data set
    with pytest.raises(FileExistsError, match="another avss set"):
        synthetic.write("avss", tmp_path, clips, SIZE)


def test_command_line(tmp_path, capsys):
    out = tmp_path / "raw"
    arguments = f"--task s4 --out {out} --train 1 --test 1 --size 32 32 --seed 2 --processes 1"
    synthetic.main(arguments.split())
    assert "1 train, 0 val, 1 test clips of s4" in capsys.readouterr().out
    assert [row["split"] for row in table(out / "s4_meta_data.csv")] == ["train", "test"]


def test_bad_arguments(tmp_path):
    for arguments, message in (
        (("s5", "train", 0), "task is 's5'; use one of s4, ms3, avss"),
        (("s4", "dev", 0), "split is 'dev'; use one of train, val, test"),
        (("s4", "train", -1), "index is -1"),
        (("s4", "train", 0, 0, (8, 64)), "at least 16 pixels"),
    ):
        with pytest.raises(ValueError, match=message):
            synthetic.make_clip(*arguments)
    with pytest.raises(ValueError, match="task is 's5'"):
        synthetic.write("s5", tmp_path, {"train": 1})
    for clips in ({"dev": 1}, {"train": -1}):
        with pytest.raises(ValueError, match="give numbers >= 0 for train, val, test"):
            synthetic.write("s4", tmp_path, clips)


# ---- what is in them ----


def test_kinds_are_published_categories_and_classes():
    assert len(KINDS) >= 12
    assert len({kind.name for kind in KINDS} & set(labels.AVSS_CLASSES)) == len(KINDS)
    assert len({kind.category for kind in KINDS} & set(labels.S4_CATEGORIES)) == len(KINDS)


def test_objects_are_large_apart_and_all_different(many):
    for clip in (clip for clips in many.values() for clip in clips):
        assert len(set(clip.kinds)) == len(clip.kinds) in (3, 4)
        assert clip.off_screen not in clip.kinds
        assert clip.objects.sum(axis=1).max() == 1
    areas = np.concatenate([clip.objects.mean(axis=(2, 3)).ravel() for clips in many.values() for clip in clips])
    assert np.quantile(areas, 0.05) > 0.06 and np.quantile(areas, 0.95) < 0.20


def test_s4_has_one_source_and_silent_distractors(many):
    for clip in many["s4"]:
        assert (clip.sounding.sum(axis=1) == 1).all() and (clip.sounding == clip.sounding[0]).all()
        source = int(clip.sounding[0].argmax())
        assert {kind.name: kind.category for kind in KINDS}[clip.kinds[source]] == clip.category
        np.testing.assert_array_equal(clip.masks, clip.owner == source)
        silent = clip.objects.any(axis=(2, 3)) & ~clip.sounding
        assert (silent.sum(axis=1) >= 2).all()
        assert clip.mask_valid.tolist() == [True] + [False] * 4
    assert 3 <= sum(clip.off_screen != "" for clip in many["s4"]) <= 30


def test_ms3_sources_start_and_stop(many):
    clips = many["ms3"]
    numbers = [int(clip.sounding.any(axis=0).sum()) for clip in clips]
    assert set(numbers) == {1, 2, 3} and min(numbers.count(n) for n in (1, 2, 3)) > 24
    for clip in clips:
        expected = (clip.objects & clip.sounding[:, :, None, None]).any(axis=1)
        np.testing.assert_array_equal(clip.masks, expected)
    silent = np.array([~clip.sounding.any(axis=1) for clip in clips])
    assert 0.5 < silent.any(axis=1).mean() and 0.1 < silent.mean() < 0.4
    changes = np.mean([(np.diff(clip.sounding.astype(int), axis=0) != 0).any() for clip in clips])
    assert changes > 0.8


def test_avss_has_three_kinds_of_clip_and_class_maps(many):
    for i, clip in enumerate(many["avss"]):
        assert clip.subset == ("v1s", "v1m", "v2")[i % 3]
        assert clip.frames.shape[0] == (10 if clip.subset == "v2" else 5)
        assert clip.mask_valid.sum() == (1 if clip.subset == "v1s" else len(clip.masks))
        for t in range(len(clip.masks)):
            assert set(np.unique(clip.masks[t])) - {0} == {
                labels.AVSS_CLASSES.index(kind)
                for kind, seen, heard in zip(clip.kinds, clip.objects[t], clip.sounding[t], strict=True)
                if heard and seen.any()
            }


def loudness(clip):
    """(T,) root mean square of each log-mel patch's own samples, without its fades."""
    patches = clip.waveform[: PATCH_SAMPLES * len(clip.frames)].reshape(-1, PATCH_SAMPLES) / 32768.0
    return np.sqrt(np.square(patches[:, 400:-400]).mean(axis=1))


def test_sound_and_truth_agree(many):
    """A patch is loud if something on screen sounds, or something off screen; else only the noise floor is left."""
    heard_off_screen = 0
    for clip in many["ms3"] + many["avss"]:
        loud = loudness(clip) > 0.012
        sounding = clip.sounding.any(axis=1)
        assert loud[sounding].all()
        if clip.off_screen == "":
            np.testing.assert_array_equal(loud, sounding)
        heard_off_screen += int((loud & ~sounding).sum())
    assert heard_off_screen > 5  # off-screen sound alone: an empty mask all the same


def test_silence_and_sound_meet_at_the_patch(many):
    """The log-mel patch of a silent second holds no trace of its neighbours."""
    floor = [
        audio.log_mel(clip.waveform / 32768.0, 16000)[t].mean()
        for clip in many["ms3"][:40]
        for t in range(5)
        if clip.off_screen == "" and not clip.sounding[t].any()
    ]
    assert len(floor) > 10 and max(floor) < -2.0


# ---- the sound tells, the pictures do not ----


def standing(values, chosen):
    """z-score of how the chosen one of each row's values stands against the row's mean, over all rows."""
    deviations = [(row[i] - np.mean(row)) / (np.std(row) + 1e-9) for row, i in zip(values, chosen, strict=True)]
    return np.sum(deviations) / np.sqrt(len(deviations))


def test_nothing_seen_tells_the_source(many):
    clips = many["s4"] + [synthetic.make_clip("s4", "val", i, 3, SIZE) for i in range(180)]
    sources = [int(clip.sounding[0].argmax()) for clip in clips]
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    areas = [clip.objects.sum(axis=(2, 3)) for clip in clips]  # (T, N) each
    y, x = (
        [np.tensordot(clip.objects, grid) / a for clip, a in zip(clips, areas, strict=True)] for grid in (rows, columns)
    )
    centrality = [((v - 24) ** 2 + (u - 32) ** 2).mean(axis=0) for v, u in zip(y, x, strict=True)]
    path = [
        np.abs(np.diff(v, axis=0)).sum(axis=0) + np.abs(np.diff(u, axis=0)).sum(axis=0)
        for v, u in zip(y, x, strict=True)
    ]
    depth = [np.arange(len(clip.kinds)) for clip in clips]
    kind = [[[k.name for k in KINDS].index(name) for name in clip.kinds] for clip in clips]
    for values in (
        [a.mean(axis=0) for a in areas],
        [v.mean(axis=0) for v in y],
        [u.mean(axis=0) for u in x],
        centrality,
        path,
        depth,
        kind,
    ):
        assert abs(standing(values, sources)) < 3.5


def features(split, count):
    """Time-averaged log-mel, its deviation and its roughness, (5 count, 192), and the category of each S4 patch."""
    clips = [synthetic.make_clip("s4", split, i, 0, (16, 16)) for i in range(count)]
    patches = np.concatenate([audio.log_mel(clip.waveform / 32768.0, 16000) for clip in clips])
    values = [patches.mean(axis=1), patches.std(axis=1), np.abs(np.diff(patches, axis=1)).mean(axis=1)]
    categories = [kind.category for kind in KINDS]
    return np.concatenate(values, axis=1), np.repeat([categories.index(clip.category) for clip in clips], 5)


def test_one_second_of_sound_tells_the_kind():
    """A linear classifier on three statistics of a patch is right on more than 97 % of the patches of other clips."""
    (seen, seen_kind), (new, new_kind) = features("train", 300), features("test", 100)
    mean, deviation = seen.mean(axis=0), seen.std(axis=0)
    seen, new = (np.column_stack([(x - mean) / deviation, np.ones(len(x))]) for x in (seen, new))
    weights = np.zeros((seen.shape[1], len(KINDS)))
    for _ in range(300):
        scores = np.exp(seen @ weights)
        shares = scores / scores.sum(axis=1, keepdims=True)
        weights -= 0.3 * (seen.T @ (shares - np.eye(len(KINDS))[seen_kind]) / len(seen) + 1e-3 * weights)
    assert np.mean((new @ weights).argmax(axis=1) == new_kind) > 0.97
