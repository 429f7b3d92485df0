"""Writers of small data sets in AVSBench's published layouts, of noise that follows from seeds."""

import csv
import json

import numpy as np
import soundfile
from PIL import Image

from data_pipeline import labels, torch_file

SIZE = (12, 8)  # width, height
RATE = 16000


def image(path, seed, size=SIZE):
    """A file of noise; the same numbers are its decoded pixels where the format is lossless."""
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
