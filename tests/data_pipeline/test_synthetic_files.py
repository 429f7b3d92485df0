"""Synthetic raw sets: the published layouts, file by file."""

import csv
import json
import wave

import numpy as np
import pytest
from PIL import Image

from data_pipeline import audio, labels, synthetic, torch_file

SIZE = (48, 64)


def files(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A small raw set of each task, by task."""
    folder = tmp_path_factory.mktemp("raw")
    for task in ("s4", "ms3", "avss"):
        synthetic.write(task, folder / task, {"train": 3, "val": 3, "test": 1}, SIZE, seed=5, processes=1)
    return folder


def test_files_do_not_depend_on_the_number_of_processes(written, tmp_path):
    synthetic.write("ms3", tmp_path, {"train": 3, "val": 3, "test": 1}, SIZE, seed=5, processes=2)
    assert files(tmp_path) == files(written / "ms3")


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
    for other, message in ((("--seed", "3"), "already holds another s4 set"), (("--size", "8", "32"), "at least 16")):
        with pytest.raises(SystemExit):
            synthetic.main([*arguments.split(), *other])
        assert message in capsys.readouterr().err


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
    for clips in ({"dev": 1}, {"train": -1}, {"train": 0, "val": 0}, {}):
        with pytest.raises(ValueError, match="give numbers >= 0 for train, val, test"):
            synthetic.write("s4", tmp_path, clips)
    for wrong, message in (({"size": (8, 64)}, "at least 16 pixels"), ({"seed": -1}, "seed is -1")):
        with pytest.raises(ValueError, match=message):
            synthetic.write("s4", tmp_path, {"train": 1}, processes=1, **wrong)
    assert not files(tmp_path)
