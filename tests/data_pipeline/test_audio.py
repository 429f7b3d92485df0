"""The log-mel front end, against the released one, and audio files of every kind."""

import golden
import numpy as np
import pytest
import soundfile

from data_pipeline import audio
from data_pipeline.problems import BadFile

GOLDEN = golden.load("avsegformer/log_mel")
TOLERANCE = 1e-5


def sine(rate, seconds, hertz=440.0):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


WAVEFORMS = {
    "log_mel_5s": lambda: (GOLDEN.inputs["waveform_5s"], 16000),
    "log_mel_10s": lambda: (GOLDEN.inputs["waveform_10s"], 16000),
    "log_mel_sine": lambda: (sine(16000, 2.5), 16000),
    "log_mel_silence": lambda: (np.zeros(16000), 16000),
    "log_mel_stereo_44k": lambda: (GOLDEN.inputs["waveform_stereo_44k"], 44100),
}


@pytest.mark.parametrize("name", WAVEFORMS)
def test_log_mel(name):
    examples = audio.log_mel(*WAVEFORMS[name]())
    assert examples.dtype == np.float32
    assert GOLDEN.check(name, examples[:, None]).max_abs < TOLERANCE


def test_resampling():
    resampled = audio.to_mono_16k(GOLDEN.inputs["waveform_stereo_44k"], 44100)
    assert resampled.shape == (24000,) and resampled.dtype == np.float64
    assert GOLDEN.check("resampled_44k", resampled).max_abs < 1e-7


def test_window_and_mel_matrix():
    assert GOLDEN.check("window", audio.hann_window()).max_abs < 1e-7
    assert GOLDEN.check("mel_matrix", audio.mel_matrix()).max_abs < 1e-7
    assert audio.mel_matrix().dtype == np.float64


def test_number_of_examples():
    for samples, count in GOLDEN.values["examples_per_length"].items():
        assert audio.num_examples(int(samples)) == count
        assert audio.log_mel(np.zeros(int(samples)), 16000).shape == (count, 96, 64)
    assert audio.log_mel(np.zeros(0), 44100).shape == (0, 96, 64)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 32000, 44100, 48000, 12345])
def test_resampled_sine_is_a_sine(rate):
    resampled = audio.resample(sine(rate, 0.5), rate)
    assert len(resampled) == audio.num_resampled(round(rate * 0.5), rate)
    inner = slice(200, -200)  # beyond the ends the signal counts as zero
    np.testing.assert_allclose(resampled[inner], sine(16000, 0.5)[: len(resampled)][inner], atol=2e-4)


def test_resampling_removes_what_16_khz_cannot_hold():
    assert np.abs(audio.resample(sine(48000, 0.5, hertz=12000), 48000)[200:-200]).max() < 1e-5


def test_resampling_keeps_16_khz():
    waveform = sine(16000, 0.1)
    np.testing.assert_array_equal(audio.resample(waveform, 16000), waveform)


def test_silence_is_what_the_front_end_gives_for_zeros():
    np.testing.assert_array_equal(audio.silence_log_mel(2), audio.log_mel(np.zeros(32000), 16000))


def test_examples_fit_the_clip():
    examples = audio.log_mel(sine(16000, 3.0), 16000)
    assert len(examples) == 3
    zeros, repeated = (audio.fit_examples(examples, 5, padding) for padding in ("zeros", "repeat"))
    np.testing.assert_array_equal(zeros[:3], examples)
    assert zeros.shape == (5, 96, 64) and not zeros[3:].any()
    np.testing.assert_array_equal(repeated, examples[[0, 1, 2, 2, 2]])
    np.testing.assert_array_equal(audio.fit_examples(examples, 3, "zeros"), examples)
    with pytest.raises(ValueError, match=r"3 examples .* takes 2"):
        audio.fit_examples(examples, 2, "zeros")
    with pytest.raises(ValueError, match="none to repeat"):
        audio.fit_examples(examples[:0], 2, "repeat")
    with pytest.raises(ValueError, match="'mirror'"):
        audio.fit_examples(examples, 5, "mirror")


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"])
def test_wav_of_any_depth_reads_as_16_bits(tmp_path, subtype):
    samples = audio.to_int16(sine(8000, 0.1))
    soundfile.write(tmp_path / "a.wav", samples / 32768, 8000, subtype=subtype)
    found, rate = audio.read_wav(tmp_path / "a.wav")
    assert rate == 8000 and found.dtype == np.int16
    np.testing.assert_allclose(found, samples, atol=700 if subtype == "ULAW" else 1)


def test_wav_is_read_exactly(tmp_path):
    samples = np.array([[0, 1], [-32768, 32767], [100, -100]], np.int16)
    soundfile.write(tmp_path / "a.wav", samples, 16000)
    np.testing.assert_array_equal(audio.read_wav(tmp_path / "a.wav")[0], samples)
    np.testing.assert_array_equal(audio.read_mono_16k(tmp_path / "a.wav"), samples.astype(float).mean(axis=1) / 32768)


def test_too_loud_floats_are_clipped(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.array([2.0, -2.0]), 16000, subtype="FLOAT")
    np.testing.assert_array_equal(audio.read_wav(tmp_path / "a.wav")[0], [32767, -32768])


def bad_wavs(folder):
    for channels, samples in ((1, 0), (3, 100)):
        soundfile.write(folder / f"{channels}x{samples}.wav", np.zeros((samples, channels), np.int16), 16000)
    (folder / "text.wav").write_text("not audio")
    return {"1x0.wav": "0 samples", "3x100.wav": "3 channels", "text.wav": "no readable audio", "no.wav": "missing"}


def test_bad_wavs_are_named(tmp_path):
    for name, what in bad_wavs(tmp_path).items():
        with pytest.raises(BadFile, match=rf"{name}: .*{what}.*To mend it: "):
            audio.read_wav(tmp_path / name)


def test_bad_waveforms_are_refused():
    with pytest.raises(ValueError, match=r"\(100, 3\)"):
        audio.log_mel(np.zeros((100, 3)), 16000)
    with pytest.raises(ValueError, match="divide 16-bit samples by 32768"):
        audio.log_mel(np.zeros(100, np.int16), 16000)
    with pytest.raises(ValueError, match="sample rate is 0"):
        audio.log_mel(np.zeros(100), 0)
