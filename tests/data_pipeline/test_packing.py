"""Packed batches: all annotated frames and as few others as can be, the same number in every process."""

import types

import numpy as np
import pytest

from data_pipeline import batch, clips, loader, packing
from data_pipeline.batch import FIELDS
from tests.data_pipeline.known_records import assert_same, options, take, write_set

CLIPS = {"train": 6, "test": 7}


@pytest.fixture(scope="module")
def avss(tmp_path_factory):
    """Clips of 10 and of 5 annotated frames, in turns."""
    return write_set(tmp_path_factory.mktemp("avss"), "avss", CLIPS, size=(24, 32))


def avss_options(**changes):
    return options("avss", **changes)


def as_process(monkeypatch, index, count):
    shard = types.SimpleNamespace(shard_index=index, shard_count=count)
    monkeypatch.setattr(loader, "_shard", lambda options: shard)


def annotated_frames(made):
    """Every annotated frame of real clips: {(clip, frame): its arrays}."""
    there = made["mask_valid"] & made["clip_valid"][:, None]
    places = made.get("frame_index", np.zeros(len(there), int))[:, None] + np.arange(there.shape[1])
    names = sorted(name for name in made if "T" in FIELDS[name].axes)
    return {
        (int(made["clip_index"][i]), int(places[i, t])): [made[name][i, t] for name in names]
        for i, t in zip(*np.nonzero(there), strict=True)
    }


def assert_same_frames(found, expected):
    assert list(found) == list(expected)
    for place, arrays in expected.items():
        assert all(np.array_equal(a, b) for a, b in zip(found[place], arrays, strict=True))


def example():
    made = batch.example_batch(3, 4, (8, 8), seed=0)
    made["mask_valid"][:] = [[1, 0, 0, 0], [1, 1, 1, 0], [0, 1, 0, 1]]
    made["clip_valid"][2] = False
    made["category"][:] = [5, 6, 7]
    return made


@pytest.mark.parametrize("size", [4, 6, 12])
def test_annotated_frames_come_first_and_keep_what_belongs_to_them(size):
    made = example()
    packed = packing.pack(made, size)
    assert batch.check_batch(packed) == {"B": size, "T": 1, "H": 8, "W": 8}
    assert_same_frames(annotated_frames(packed), annotated_frames(made))
    assert packed["clip_index"][:4].tolist() == [0, 1, 1, 1] and packed["frame_index"][:4].tolist() == [0, 0, 1, 2]
    assert packed["category"][:4].tolist() == [5, 6, 6, 6]
    for name in ("frames", "masks", "clip_index", "frame_index", "category"):  # what fills it up are the same again
        np.testing.assert_array_equal(packed[name], np.resize(packed[name][:4], packed[name].shape))
    assert not packed["mask_valid"][4:].any()


def test_a_batch_without_any_annotated_frame_keeps_its_size():
    made = example()
    made["mask_valid"][:] = False
    packed = packing.pack(made, 4)
    assert not packed["mask_valid"].any() and packed["clip_index"].tolist() == [0] * 4


@pytest.mark.parametrize("size", [3, 13])
def test_a_size_that_does_not_fit_is_refused(size):
    with pytest.raises(ValueError, match=f"4 of 12 frames do not make {size}"):
        packing.pack(example(), size)


@pytest.mark.parametrize(
    ("annotated", "expected"), [(0, 8), (8, 8), (9, 16), (24, 24), (25, 40), (33, 40), (40, 40)], ids=str
)
def test_the_smallest_size_that_holds_them(annotated, expected):
    assert packing.size(annotated, clips=4, frames=10, sizes=(6, 2, 4)) == expected


def test_whole_clips_fill_a_batch():
    assert packing.whole_clips([10, 5, 5, 10, 10, 0, 1], 20) == [range(0, 3), range(3, 6), range(6, 7)]
    assert packing.whole_clips([0, 0], 20) == [range(0, 2)] and packing.whole_clips([], 20) == []


def test_training_batches_are_the_published_ones_packed(avss):
    whole = take(loader.train_batches(avss, "train", avss_options(batch_size=2)), 6)
    settings = avss_options(batch_size=2, packed=True, packed_frames=(5, 8))
    stream = loader.train_batches(avss, "train", settings)
    packed = take(stream, 4)
    state = stream.get_state()
    packed += take(stream, 2)
    counts = [int(made["mask_valid"].sum()) for made in whole]
    assert {10, 15, 20} >= set(counts) and len(set(counts)) > 1
    assert [len(made["frames"]) for made in packed] == [{10: 10, 15: 16, 20: 20}[count] for count in counts]
    for made, expected in zip(packed, whole, strict=True):
        assert_same_frames(annotated_frames(made), annotated_frames(expected))
    resumed = loader.train_batches(avss, "train", settings)
    resumed.set_state(state)
    assert_same(take(resumed, 2), packed[4:])


def test_processes_arrive_at_one_size(avss, monkeypatch):
    settings = avss_options(packed=True, packed_frames=(5, 8))
    whole = take(loader.train_batches(avss, "train", avss_options()), 3)
    shares = []
    for process in range(2):
        as_process(monkeypatch, process, 2)
        shares.append(take(loader.train_batches(avss, "train", settings), 3))
    for first, second, expected in zip(*shares, whole, strict=True):
        counts = [int(made["mask_valid"].sum()) for made in (first, second)]
        assert len(first["frames"]) == len(second["frames"]) == {10: 10, 15: 16, 20: 20}[max(counts)]
        both = annotated_frames(first) | annotated_frames(second)
        assert both.keys() == annotated_frames(expected).keys()


@pytest.mark.parametrize("processes", [1, 2])
def test_evaluation_has_every_annotated_frame_once_and_nothing_else(avss, monkeypatch, processes):
    whole, found, lengths = {}, {}, []
    for made in loader.eval_batches(avss, "test", avss_options()):
        whole |= annotated_frames(made)
    for process in range(processes):
        as_process(monkeypatch, process, processes)
        batches = loader.eval_batches(avss, "test", avss_options(packed=True))
        made = list(batches)
        assert len(made) == len(batches)
        lengths.append(len(made))
        for each in made:
            assert batch.check_batch(each) == {"B": 40 // processes, "T": 1, "H": 24, "W": 32}
            real = each["mask_valid"][:, 0]
            assert (each["clip_valid"] == real).all() and (each["clip_index"][~real] == -1).all()
            assert not any(each[name][~real].any() for name in ("frames", "masks", "log_mel"))
            found |= annotated_frames(each)
    assert set(lengths) == {2}
    assert_same_frames({place: found[place] for place in whole}, whole)
    assert len(found) == 55


def test_records_that_do_not_tell_what_is_annotated_are_not_packed(avss, monkeypatch):
    """Indices of older conversions lack it; nothing is lost then."""
    settings = avss_options(packed=True, packed_frames=(5, 8))
    monkeypatch.setattr(loader.ClipSource, "annotated", property(lambda source: [10] * len(source)))
    assert {len(made["frames"]) for made in take(loader.train_batches(avss, "train", settings), 3)} == {40}
    assert sum(made["mask_valid"].sum() for made in loader.eval_batches(avss, "test", settings)) == 55


@pytest.mark.parametrize("sizes", [(0,), (11,)])
def test_sizes_beyond_a_clip_are_refused(sizes):
    with pytest.raises(loader.LoaderError, match="packed_frames"):
        avss_options(packed=True, packed_frames=sizes)


def test_frames_that_are_not_delivered_are_not_decoded(tmp_path, monkeypatch):
    write_set(tmp_path, "s4", {"train": 2})  # clips of five frames, one of them annotated
    decoded, decode = [], clips.decode_image
    monkeypatch.setattr(clips, "decode_image", lambda data: decoded.append(data) or decode(data))
    whole = next(loader.train_batches(tmp_path, "train", options(batch_size=2, threads=0)))
    number = len(decoded)
    packed = next(loader.train_batches(tmp_path, "train", options(batch_size=2, threads=0, packed=True)))
    assert number % 5 == 0 and len(decoded) - number == number // 5
    assert_same_frames(annotated_frames(packed), annotated_frames(whole))
