"""VGGish's log-mel front end, from any wav file, in float64 (AVSegFormer's release, `torchvggish`).

The steps: channel mean; resampling to 16 kHz; magnitude spectrum of 25 ms Hann windows every 10 ms; 64 mel bands;
log(mel + 0.01); patches ("examples") of 96 windows, which is one every 0.96 s.
"""

from __future__ import annotations

import functools
import io
import math
from pathlib import Path

import numpy as np
import soundfile

from data_pipeline import places
from data_pipeline.problems import RESTORE, BadFile

SAMPLE_RATE = 16000
EXAMPLE_WINDOWS = 96  # windows in an example
MEL_BANDS = 64

_WINDOW = 400  # samples, 25 ms
_HOP = 160  # samples, 10 ms
_FFT = 512
_LOWEST_HZ, _HIGHEST_HZ = 125.0, 7500.0
_LOG_OFFSET = 0.01
_INT16_SCALE = 32768.0

# The filter "kaiser_best" of resampy 0.4, which the published front end resamples with: a Kaiser-windowed sinc,
# tabulated from its centre to its 50th zero crossing.
_ZERO_CROSSINGS = 50
_TABLE_STEPS = 8192  # a zero crossing
_KAISER_BETA = 12.984585247040012
_ROLLOFF = 0.9173473712608761


def num_examples(num_samples: int) -> int:
    """How many 0.96 s examples so many samples at 16 kHz give; what is left over is dropped."""
    windows = 1 + (num_samples - _WINDOW) // _HOP if num_samples >= _WINDOW else 0
    return windows // EXAMPLE_WINDOWS


def num_resampled(num_samples: int, sample_rate: int) -> int:
    """How many samples at 16 kHz `resample` makes of so many at `sample_rate` Hz."""
    return num_samples * SAMPLE_RATE // sample_rate


def log_mel(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """Log-mel examples of a waveform.

    Args:
      waveform: (n,) or (n, channels) samples in [-1, 1] (16-bit values / 32768); one or two channels.
      sample_rate: in Hz.

    Returns:
      (examples, 96, 64) float32: time, mel band. Less than 15600 samples at 16 kHz give no example.

    Raises:
      ValueError: more than two channels, or integer samples.
    """
    samples = to_mono_16k(waveform, sample_rate)
    length = (EXAMPLE_WINDOWS - 1) * _HOP + _WINDOW
    starts = EXAMPLE_WINDOWS * _HOP * np.arange(num_examples(len(samples)))
    examples = np.empty((len(starts), EXAMPLE_WINDOWS, MEL_BANDS), np.float32)
    for example, start in zip(examples, starts, strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(samples[start : start + length], _WINDOW)[::_HOP]
        spectrum = np.abs(np.fft.rfft(windows * hann_window(), _FFT))
        example[...] = np.log(spectrum @ mel_matrix() + _LOG_OFFSET)
    return examples


def silence_log_mel(count: int) -> np.ndarray:
    """What `log_mel` gives for silence: (count, 96, 64) float32, log(0.01) everywhere."""
    return np.full((count, EXAMPLE_WINDOWS, MEL_BANDS), np.log(_LOG_OFFSET), np.float32)


def fit_examples(examples: np.ndarray, count: int, padding: str) -> np.ndarray:
    """Fills up examples to one for each second of a clip: (k, 96, 64) -> (count, 96, 64), k <= count.

    Args:
      examples: of `log_mel`.
      count: the clip's seconds T.
      padding: "zeros" as AVSS's loader does (zeros, not silence), or "repeat", the last example again, as the S4 and
        MS3 log-mels were made.

    Raises:
      ValueError: more than `count` examples, none to repeat, or an unknown padding.
    """
    missing = count - len(examples)
    if missing < 0:
        raise ValueError(f"the audio gives {len(examples)} examples of 0.96 s, a clip of {count} s takes {count}")
    if padding == "zeros":
        filling = np.zeros((missing, *examples.shape[1:]), examples.dtype)
    elif padding == "repeat" and len(examples):
        filling = np.repeat(examples[-1:], missing, axis=0)
    elif padding == "repeat":
        raise ValueError("the audio is shorter than one example (0.975 s), so there is none to repeat")
    else:
        raise ValueError(f"padding is 'zeros' or 'repeat', not {padding!r}")
    return np.concatenate([examples, filling])


def read_wav(path: str | Path) -> tuple[np.ndarray, int]:
    """Reads a wav (or flac, ogg, mp3) file.

    Returns:
      (n,) or (n, 2) int16 samples, and the rate in Hz. Files of another depth are converted to 16 bits.

    Raises:
      BadFile: missing, not audio, no samples, samples that are not finite, or more than two channels.
    """
    try:
        content = io.BytesIO(places.at(path).read_bytes()) if places.is_remote(path) else path
        with soundfile.SoundFile(content) as file:
            # Asked for integers, libsndfile does not scale floating-point samples: it would round them to -1, 0, 1.
            samples = file.read(dtype="int16" if file.subtype.startswith("PCM") else "float64")
            rate = file.samplerate
    except (soundfile.SoundFileError, OSError) as error:
        if not places.at(path).is_file():
            raise BadFile(path, "the file is missing", RESTORE) from None
        mend = "restore the file, or write it anew as 16-bit wav"
        raise BadFile(path, f"is no readable audio ({error})", mend) from error
    if len(samples) == 0:
        raise BadFile(path, "has 0 samples", RESTORE)
    if samples.dtype != np.int16 and not np.isfinite(samples).all():
        raise BadFile(path, "has samples that are not finite", RESTORE)
    if samples.ndim == 2 and samples.shape[1] > 2:
        mend = f"mix it down, for example with: ffmpeg -i {Path(path).name} -ac 1 mono.wav"
        raise BadFile(path, f"has {samples.shape[1]} channels where one or two are expected", mend)
    return (samples if samples.dtype == np.int16 else to_int16(samples)), rate


def read_mono_16k(path: str | Path) -> np.ndarray:
    """Reads an audio file as the front end hears it: (n,) float64 in [-1, 1], mono, 16 kHz. Raises BadFile."""
    samples, rate = read_wav(path)
    return to_mono_16k(from_int16(samples), rate)


def from_int16(samples: np.ndarray) -> np.ndarray:
    """16-bit values as samples in [-1, 1): (n,) or (n, channels) int16 -> the same shape, float64."""
    return samples / _INT16_SCALE


def to_int16(waveform: np.ndarray) -> np.ndarray:
    """Samples in [-1, 1] as 16-bit values, clipped: (n,) or (n, channels) -> the same shape, int16."""
    return np.clip(np.rint(waveform * _INT16_SCALE), -32768, 32767).astype(np.int16)


def to_mono_16k(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """Averages the channels, then resamples: (n,) or (n, channels) in [-1, 1] -> (m,) float64 at 16 kHz.

    Raises: ValueError for more than two channels, integer samples, or a rate that is not positive.
    """
    if not np.issubdtype(waveform.dtype, np.floating):
        raise ValueError(f"the waveform is {waveform.dtype}; divide 16-bit samples by 32768 first")
    if waveform.ndim > 2 or (waveform.ndim == 2 and waveform.shape[1] not in (1, 2)):
        raise ValueError(f"the waveform has shape {waveform.shape}; (n,), (n, 1) or (n, 2) is expected")
    mono = waveform.astype(np.float64) if waveform.ndim == 1 else waveform.astype(np.float64).mean(axis=1)
    return resample(mono, sample_rate)


def resample(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """Band-limited interpolation to 16 kHz as resampy 0.4 does by default: (n,) -> (n * 16000 // rate,) float64.

    The ratio of the rates is up / down in lowest terms, so the output samples fall into `up` phases, each with a fixed
    set of weights; samples beyond the ends count as zero.
    """
    if sample_rate != int(sample_rate) or sample_rate <= 0:
        raise ValueError(f"the sample rate is {sample_rate}; a positive whole number of Hz is expected")
    divisor = math.gcd(SAMPLE_RATE, int(sample_rate))
    up, down = SAMPLE_RATE // divisor, int(sample_rate) // divisor
    if up == down:
        return np.asarray(waveform, np.float64)
    cutoff = min(1.0, up / down)  # below 1, the filter is stretched so that nothing above 8 kHz folds back
    reach = math.ceil(_ZERO_CROSSINGS / cutoff) + 1  # input samples on each side of an output sample
    padded = np.pad(np.asarray(waveform, np.float64), (reach, reach + down))
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach)
    output = np.empty(num_resampled(len(waveform), int(sample_rate)))
    for phase in range(min(up, len(output))):
        before, remainder = divmod(phase * down, up)
        weights = _weights(remainder / up, cutoff, reach)
        count = len(output[phase::up])
        output[phase::up] = windows[before + 1 :: down][:count] @ weights
    return output


def _weights(fraction: float, cutoff: float, reach: int) -> np.ndarray:
    """Filter weights of the `reach` input samples on each side of a point `fraction` behind an input sample."""
    left = _wing(cutoff * fraction, cutoff, reach)
    right = _wing(cutoff * (1 - fraction), cutoff, reach)
    return cutoff * np.concatenate([left[::-1], right])


def _wing(offset: float, cutoff: float, reach: int) -> np.ndarray:
    """Filter values at `offset`, `offset + cutoff`, ... zero crossings from the centre, `reach` of them.

    As in resampy, the step between them is a whole number of table entries, and within an entry it is linear.
    """
    table = _filter_table()
    step = int(cutoff * _TABLE_STEPS)
    first = int(offset * _TABLE_STEPS)
    between = offset * _TABLE_STEPS - first
    count = min(reach, (len(table) - first) // step)
    entries = first + step * np.arange(count)
    following = np.minimum(entries + 1, len(table) - 1)
    wing = np.zeros(reach)
    wing[:count] = table[entries] + between * (table[following] - table[entries])
    return wing


@functools.cache
def _filter_table() -> np.ndarray:
    """The right half of the windowed sinc: (50 * 8192 + 1,)."""
    size = _ZERO_CROSSINGS * _TABLE_STEPS
    sinc = _ROLLOFF * np.sinc(_ROLLOFF * np.linspace(0, _ZERO_CROSSINGS, size + 1))
    return sinc * np.kaiser(2 * size + 1, _KAISER_BETA)[size:]


@functools.cache
def hann_window() -> np.ndarray:
    """The periodic Hann window of the spectrum: (400,)."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_WINDOW) / _WINDOW)


@functools.cache
def mel_matrix() -> np.ndarray:
    """Weight of each frequency bin in each band: (257, 64).

    Triangles from 125 to 7500 Hz whose sides are straight on the mel scale (not on that of Hz, as in librosa); the bin
    at 0 Hz counts nowhere.
    """
    bins = _mel(np.linspace(0, SAMPLE_RATE / 2, _FFT // 2 + 1))[:, None]
    edges = np.linspace(_mel(_LOWEST_HZ), _mel(_HIGHEST_HZ), MEL_BANDS + 2)
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    weights = np.maximum(0, np.minimum((bins - lower) / (centre - lower), (upper - bins) / (upper - centre)))
    weights[0] = 0
    return weights


def _mel(hertz: np.ndarray | float) -> np.ndarray:
    return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)
