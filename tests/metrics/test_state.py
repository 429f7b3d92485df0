"""States: batches, processes, padding, merging."""

from __future__ import annotations

import numpy as np
import pytest

from avs_jax import metrics
from avs_jax.metrics.state import Statistics


def clips(number=7, frames=2, size=5, seed=0):
    rng = np.random.default_rng(seed)
    scores = rng.random((number, frames, size, size, 1)).astype(np.float32)
    masks = rng.integers(0, 2, (number, frames, size, size)).astype(np.uint8)
    return scores, masks, rng.random((number, frames)) < 0.9


def padded_batches(arrays, batch_size):
    """Batches of one size; the last one is filled up with repeated clips of index -1."""
    number = len(arrays[0])
    for start in range(0, number, batch_size):
        index = np.arange(start, start + batch_size)
        yield *(array[index % number] for array in arrays), np.where(index < number, index, -1)


def assert_same(a: Statistics, b: Statistics):
    for name in ("clip_index", "valid", "counts"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_any_batch_size_and_order_gives_the_same_state():
    arrays = clips()
    whole = metrics.create("avsbench").update(*arrays)
    for batch_size in (1, 2, 3, 8):
        metric = metrics.create("avsbench")
        for batch in reversed(list(padded_batches(arrays, batch_size))):
            metric = metric.update(*batch)
        assert_same(metric.statistics, whole.statistics)
        assert metric.compute() == whole.compute()


def test_states_of_several_processes_merge_to_the_whole():
    arrays = clips()
    whole = metrics.create("avsbench").update(*arrays)
    parts = []
    for process in range(3):
        index = np.arange(process, 7, 3)
        parts.append(metrics.create("avsbench").update(*(array[index] for array in arrays), clip_index=index))
    merged = parts[2].merge(parts[0]).merge(parts[1])
    assert_same(merged.statistics, whole.statistics)
    assert_same(Statistics.empty().merge(*(part.statistics for part in parts)), whole.statistics)


def test_clips_without_a_position_are_numbered_as_they_come():
    arrays = clips()
    first, second = ([array[part] for array in arrays] for part in (slice(0, 3), slice(3, 7)))
    whole = metrics.create("avsbench").update(*arrays)
    one_by_one = metrics.create("avsbench").update(*first).update(*second)
    merged = metrics.create("avsbench").update(*first).merge(metrics.create("avsbench").update(*second))
    assert_same(one_by_one.statistics, whole.statistics)
    assert merged.compute() == whole.compute()


def test_frames_that_are_not_annotated_do_not_count():
    scores, masks, valid = clips()
    valid[2] = False
    spoilt = masks.copy()
    spoilt[~valid] = 1 - masks[~valid]
    metric = metrics.create("clip")
    assert metric.update(scores, masks, valid).compute() == metric.update(scores, spoilt, valid).compute()
    assert 2 not in metric.update(scores, masks, valid).statistics.clip_index
    ignored = np.where(valid[..., None, None], masks, 255).astype(np.uint8)
    assert metric.update(scores, masks, valid).compute() == metric.update(scores, ignored).compute()


def test_per_clip_values_average_to_the_protocol():
    scores, masks, _ = clips()
    metric = metrics.create("clip").update(scores, masks)
    rows = metric.per_clip()
    assert rows["frames"].tolist() == [2] * 7 and rows["clip_index"].tolist() == list(range(7))
    for name in ("J", "F", "area", "true_area"):
        assert rows[name].mean() == pytest.approx(metric.compute()[name], rel=1e-12)
    semantic = metrics.create("clip", 3).update(np.random.default_rng(0).random((4, 2, 5, 5, 3)), masks[:4])
    assert semantic.per_clip()["J"].mean() == pytest.approx(semantic.compute()["J"], rel=1e-12)


def test_what_does_not_belong_together_is_refused():
    arrays = clips()
    metric = metrics.create("clip").update(*arrays, clip_index=np.arange(7))
    with pytest.raises(ValueError, match="more than once: 3, 4"):
        metric.update(*(array[3:5] for array in arrays), clip_index=[3, 4])
    with pytest.raises(ValueError, match="scores have 1 classes, this metric 71"):
        metrics.create("avss", 71).update(*arrays)
    with pytest.raises(ValueError, match="do not belong together"):
        metric.statistics.merge(Statistics.of(np.ones((1, 5, 2, 256)), np.ones((1, 5)), np.array([9])))
    with pytest.raises(ValueError, match="'avss': for 1 classes one of clip, avsbench, dataset"):
        metrics.create("avss")
    with pytest.raises(ValueError, match="batch_size=0"):
        metric.statistics.compute("avsbench", batch_size=0)
    with pytest.raises(ValueError, match="no clip was evaluated"):
        metrics.create("clip").compute()


def test_every_protocol_of_a_number_of_classes():
    assert set(metrics.protocols(1)) == {"clip", "avsbench", "dataset", "vct"}
    assert set(metrics.protocols(71)) == {"clip", "avss", "dataset", "vct"}
    scores, masks, valid = clips()
    for classes in (1, 3):
        statistics = metrics.create("clip", classes).update(np.repeat(scores, classes, -1), masks, valid).statistics
        for name in metrics.protocols(classes):
            assert all(0 <= value <= 1 for value in statistics.compute(name).values())
