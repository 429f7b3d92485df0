"""Records whose every pixel and sample is known, and what tests of the loader do with them."""

import io
import itertools

import numpy as np
from PIL import Image

from data_pipeline import records, schema, shards, tfrecord
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


RANDOM = {"flip": True, "min_crop": 0.5}
VCT = {"flip": True, "scales": (0.5, 1.0, 2.0), "colour": True}
