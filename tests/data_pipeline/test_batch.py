"""The batch contract."""

import numpy as np
import pytest

from data_pipeline import batch


@pytest.mark.parametrize("seed", [None, 3])
def test_an_example_batch_keeps_the_contract(seed):
    made = batch.example_batch(2, 5, (32, 48), num_classes=71, seed=seed)
    assert batch.check_batch(made) == {"B": 2, "T": 5, "H": 32, "W": 48}
    assert made["masks"].max() <= 70 and made["clip_valid"].all()
    assert made["frames"].any() == (seed is not None)


def test_binary_masks_are_zero_and_one():
    masks = batch.example_batch(2, 5, (32, 32), seed=0)["masks"]
    assert set(np.unique(masks)) == {0, 1}


def test_an_embedding_takes_the_place_of_the_log_mel():
    made = batch.example_batch(2, 5, (32, 32))
    with pytest.raises(batch.BatchError, match="exactly one of log_mel and audio_embedding"):
        batch.check_batch(made | {"audio_embedding": np.zeros((2, 5, 128), np.float32)})
    del made["log_mel"]
    with pytest.raises(batch.BatchError, match="exactly one of log_mel and audio_embedding"):
        batch.check_batch(made)
    batch.check_batch(made | {"audio_embedding": np.zeros((2, 5, 128), np.float32)})


def test_pre_segmented_images_are_there_where_they_are_asked_for():
    assert "pre_masks" not in batch.example_batch(2, 5, (32, 32))
    made = batch.example_batch(2, 5, (32, 32), seed=1, pre_masks=True)
    batch.check_batch(made)
    assert made["pre_masks"].any()


def test_everything_wrong_is_said_at_once():
    made = batch.example_batch(2, 5, (32, 32))
    del made["clip_valid"]
    made["masks"] = made["masks"][:, :, :16]
    made["mask_valid"] = made["mask_valid"].astype(np.int32)
    made["extra"] = np.zeros(2)
    with pytest.raises(batch.BatchError) as error:
        batch.check_batch(made)
    assert str(error.value) == (
        "not a batch: clip_valid is missing; masks has shape (2, 5, 16, 32), not (2, 5, 32, 32); "
        "mask_valid is int32, not bool; extra is not an entry of a batch"
    )
