"""What clips are made to sound like, through the loader."""

import numpy as np
import pytest

from data_pipeline import audio, audio_conditions, loader
from tests.data_pipeline.known_records import make_record, options, rejoined, write_set


def heard(records_path, condition, split="val", task="s4"):
    return rejoined(list(loader.eval_batches(records_path, split, options(task, audio=condition))))["log_mel"]


def test_silence_is_what_the_front_end_gives_for_zeros(s4, avss):
    expected = audio.log_mel(np.zeros(5 * 16000), 16000)
    assert (heard(s4, "silence") == expected).all()
    short = heard(avss, "silence", "test", "avss")[1]
    np.testing.assert_array_equal(short[:5], expected)
    assert not short[5:].any()  # the zeros that fill up AVSS's clips of five seconds stay


def test_noise_has_the_asked_ratio_and_passes_the_front_end(s4):
    record = make_record("s4", "val", 2)
    np.testing.assert_array_equal(heard(s4, "noise:3"), heard(s4, "noise:3"))
    clean = audio.log_mel(record.audio / 32768.0, 16000)
    np.testing.assert_allclose(heard(s4, "noise:200")[2], clean, atol=1e-5)
    # White on white: the power of every band grows by 1 + 1 / ratio.
    gain = np.exp(heard(s4, "noise:-10")[2]).mean() / np.exp(clean).mean()
    assert gain == pytest.approx(np.sqrt(1 + 10), rel=0.03)


@pytest.mark.parametrize("seconds", [1.92, -0.96])
def test_a_shift_moves_the_patches_and_leaves_silence(s4, seconds):
    record = make_record("s4", "val", 1)
    by = round(seconds / 0.96)
    clean = audio.log_mel(record.audio / 32768.0, 16000)
    shifted = heard(s4, f"shift:{seconds}")[1]
    kept = slice(by, None) if by > 0 else slice(None, by)
    moved = slice(None, -by) if by > 0 else slice(-by, None)
    np.testing.assert_allclose(shifted[kept][1:-1], clean[moved][1:-1], atol=1e-6)
    vacated = shifted[0, 10] if by > 0 else shifted[-1, 80]
    assert (vacated == np.float32(np.log(0.01))).all()


def test_swap_and_off_screen_take_another_clips_audio(s4, avss):
    true = heard(s4, "true")
    np.testing.assert_array_equal(heard(s4, "swap"), np.roll(true, -3, axis=0))
    other = heard(s4, "off_screen")
    for index in range(7):
        lender = next(i for i in range(7) if np.array_equal(true[i], other[index]))
        assert lender % 3 != index % 3  # another category
    np.testing.assert_array_equal(
        heard(avss, "off_screen", "test", "avss"), np.roll(heard(avss, "true", "test", "avss"), -1, axis=0)
    )


def test_audio_that_the_records_cannot_give_is_refused(tmp_path):
    silent = write_set(tmp_path / "a", "s4", {"val": 2}, waveform=False)
    assert (heard(silent, "silence") == np.float32(np.log(0.01))).all()
    with pytest.raises(audio_conditions.AudioError, match=r"clip val_0 has no waveform.*convert again"):
        heard(silent, "shift:1")
    ms3 = write_set(tmp_path / "b", "ms3", {"val": 3})
    with pytest.raises(audio_conditions.AudioError, match="use audio=swap"):
        heard(ms3, "off_screen", task="ms3")


@pytest.mark.parametrize("text", ["loud", "noise", "noise:", "noise:nan", "swap:3", "shift:soon", ""])
def test_an_unknown_kind_of_audio_is_refused(text):
    with pytest.raises(audio_conditions.AudioError, match="is not one of true, silence"):
        options(audio=text)
