"""Synthetic clips: the same everywhere, with truth in the sound and none in the pictures."""

import hashlib

import numpy as np
import pytest

from data_pipeline import audio, labels, synthetic
from data_pipeline.synthetic_clip import PATCH_SAMPLES
from data_pipeline.synthetic_kinds import KINDS

SIZE = (48, 64)


def digest(clip):
    arrays = (clip.frames, clip.masks, clip.owner, clip.sounding, clip.waveform.astype("<i2"))
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()[:16]


@pytest.fixture(scope="module")
def many():
    """Clips of each task, by task."""
    return {
        task: [synthetic.make_clip(task, "train", i, 3, SIZE) for i in range(120)] for task in ("s4", "ms3", "avss")
    }


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
