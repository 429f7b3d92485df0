"""The timbres of the twelve kinds of synthetic object: one function a kind, from random numbers to a waveform.

Every function takes a generator and a number of samples n at 16 kHz and returns (n,) float32 of about unit peak: a
sound that goes on all the time and tells its kind in every second. Pitch, tempo and phase vary from call to call.

Tones are read from tables by 32-bit integer phase and envelopes are polynomials, so that nothing in a waveform depends
on a machine's mathematical library; the tables themselves are rounded to 2**-15.
"""

from __future__ import annotations

import functools

import numpy as np

SAMPLE_RATE = 16000
_TABLE_BITS = 12
_NOISE_LENGTH = 1 << 16
_NOISE_SEED = 20220719
# Pass bands of the noises, Hz.
_BANDS = {"white": (0, 8000), "low": (60, 450), "middle": (500, 2000), "high": (2500, 7000)}


@functools.cache
def wavetable(*weights: float) -> np.ndarray:
    """One period of a tone whose k-th harmonic has the k-th weight, of peak 1, rounded to 2**-15: (4096,) float32."""
    angle = np.arange(1 << _TABLE_BITS) * (2 * np.pi / (1 << _TABLE_BITS))
    wave = sum(weight * np.sin(k * angle) for k, weight in enumerate(weights, start=1) if weight)
    return (np.rint(wave * (32768 / np.abs(wave).max())) / 32768).astype(np.float32)


def tone(table: np.ndarray, hertz: np.ndarray | float, n: int, phase: float = 0.0) -> np.ndarray:
    """Reads a table at a constant or a varying ((n,)) frequency: (n,) float32."""
    steps = np.broadcast_to(np.asarray(hertz * (2**32 / SAMPLE_RATE)).astype(np.int64).astype(np.uint32), (n,))
    turns = np.cumsum(steps, dtype=np.uint32) + np.uint32(phase * 4294967295)
    return table[turns >> np.uint32(32 - _TABLE_BITS)]


@functools.cache
def _noise_bank(band: str) -> np.ndarray:
    """Four turns of a periodic noise of a band, of standard deviation near 1/3. The filter has integer taps: exact."""
    low, high = (edge / SAMPLE_RATE for edge in _BANDS[band])
    centre = np.arange(-96, 97)
    kernel = 2 * high * np.sinc(2 * high * centre) - 2 * low * np.sinc(2 * low * centre)
    taps = np.rint(kernel * (97 - np.abs(centre)) * 512)
    bits = np.random.PCG64(_NOISE_SEED).random_raw(_NOISE_LENGTH // 8).view(np.int8).astype(np.float64)
    wave = np.convolve(np.concatenate([bits[-96:], bits, bits[:96]]), taps, mode="valid")
    level = np.rint(np.sqrt(np.square(wave).sum() / _NOISE_LENGTH))
    return np.tile((wave / (3 * level)).astype(np.float32), 4)


def noise(rng: np.random.Generator, band: str, n: int) -> np.ndarray:
    """Noise of a band, (n,) float32, n up to 196608."""
    start = int(rng.random() * _NOISE_LENGTH)
    return _noise_bank(band)[start : start + n]


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number between low and high. (`Generator.random` alone is used: its stream is the plainest.)"""
    return low + (high - low) * float(rng.random())


def beats(rng: np.random.Generator, seconds: tuple[float, float], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts time into equal beats, their length drawn between two bounds.

    Returns:
      number (n,) int64 of the beat that a sample is in, and progress (n,) float32 from 0 to 1 within it.
    """
    period = int(SAMPLE_RATE * uniform(rng, *seconds))
    start = int(rng.random() * period)
    count = n // period + 2
    number = np.repeat(np.arange(count), period)[start : start + n]
    ramp = np.arange(period, dtype=np.float32) / np.float32(period)
    return number, np.tile(ramp, count)[start : start + n]


def per_beat(rng: np.random.Generator, number: np.ndarray, low: float, high: float) -> np.ndarray:
    """A number drawn anew for every beat, (n,) float32."""
    return (low + (high - low) * rng.random(int(number[-1]) + 1)).astype(np.float32)[number]


def decay(progress: np.ndarray, share: float, power: int) -> np.ndarray:
    """An envelope that falls from 1 to 0 over the first `share` of a beat."""
    return np.maximum(1 - progress / np.float32(share), 0) ** power


def hump(progress: np.ndarray, share: float) -> np.ndarray:
    """An envelope that rises and falls smoothly within the first `share` of a beat."""
    place = np.minimum(progress / np.float32(share), 1)
    return 4 * place * (1 - place)


SINE = (1.0,)
SAW = tuple(1.0 / k for k in range(1, 15))


def dog(rng: np.random.Generator, n: int) -> np.ndarray:
    """Barks: short hoarse bursts that fall in pitch, three a second."""
    number, progress = beats(rng, (0.27, 0.38), n)
    hertz = uniform(rng, 380, 560) * per_beat(rng, number, 0.93, 1.07) * (np.float32(1.25) - progress)
    voice = tone(wavetable(0.6, 1.0, 1.0, 0.8, 0.5, 0.3, 0.2), hertz, n)
    return hump(progress, 0.5) * (np.float32(0.75) * voice + np.float32(0.5) * noise(rng, "middle", n))


def cat(rng: np.random.Generator, n: int) -> np.ndarray:
    """Meows: a voice that rises, falls and stops."""
    number, progress = beats(rng, (0.60, 0.85), n)
    hertz = (
        uniform(rng, 560, 780)
        * per_beat(rng, number, 0.94, 1.06)
        * (np.float32(0.85) + np.float32(0.45) * hump(progress, 0.9))
    )
    return hump(progress, 0.8) * tone(wavetable(1.0, 0.7, 0.5, 0.25), hertz, n)


def lion(rng: np.random.Generator, n: int) -> np.ndarray:
    """A roar: very low, rough and breathy."""
    number, progress = beats(rng, (0.75, 1.1), n)
    hertz = uniform(rng, 72, 105) * per_beat(rng, number, 0.92, 1.08) * (np.float32(1.15) - np.float32(0.3) * progress)
    voice = tone(wavetable(0.4, 0.5, 0.8, 1.0, 1.0, 0.8, 0.6, 0.4, 0.3, 0.2, 0.15, 0.1), hertz, n)
    rough = np.float32(0.65) + np.float32(0.35) * tone(wavetable(*SINE), uniform(rng, 22, 30), n)
    return (
        (np.float32(0.4) + np.float32(0.6) * hump(progress, 1.0))
        * rough
        * (voice + np.float32(0.8) * noise(rng, "middle", n))
    )


def bird(rng: np.random.Generator, n: int) -> np.ndarray:
    """Chirps: quick rising whistles, high up, eight or so a second."""
    number, progress = beats(rng, (0.10, 0.15), n)
    hertz = uniform(rng, 2300, 3000) * per_beat(rng, number, 0.9, 1.15) * (1 + np.float32(0.45) * progress)
    return hump(progress, 0.7) * tone(wavetable(*SINE), hertz, n)


def guitar(rng: np.random.Generator, n: int) -> np.ndarray:
    """Plucked low strings, each ringing into the next."""
    number, progress = beats(rng, (0.20, 0.30), n)
    steps = np.array([1.0, 9 / 8, 5 / 4, 3 / 2, 5 / 3], np.float32)
    hertz = uniform(rng, 165, 230) * steps[per_beat(rng, number, 0, 4.99).astype(np.int8)]
    bright = tone(wavetable(0.2, 0.5, 0.8, 0.8, 0.6, 0.5, 0.3, 0.2), hertz, n) * decay(progress, 1.0, 4)
    return (
        np.float32(0.6) * decay(progress, 1.15, 1) * tone(wavetable(1.0, 0.6, 0.3), hertz, n) + np.float32(0.5) * bright
    )


def tabla(rng: np.random.Generator, n: int) -> np.ndarray:
    """Drum strokes: a low boom, a dry click, seven a second, every other one higher."""
    number, progress = beats(rng, (0.125, 0.17), n)
    higher = (number % 2).astype(np.float32)
    hertz = uniform(rng, 135, 185) * (1 + np.float32(0.9) * higher) * (np.float32(1.3) - np.float32(0.3) * progress)
    boom = decay(progress, 0.9, 2) * tone(wavetable(1.0, 0.25), hertz, n)
    return np.float32(0.8) * boom + np.float32(1.2) * decay(progress, 0.12, 2) * noise(rng, "high", n)


def violin(rng: np.random.Generator, n: int) -> np.ndarray:
    """Bowed notes: sustained, bright, with vibrato."""
    number, progress = beats(rng, (0.5, 0.8), n)
    vibrato = 1 + np.float32(0.02) * tone(wavetable(*SINE), uniform(rng, 5.5, 7.0), n)
    hertz = uniform(rng, 400, 560) * per_beat(rng, number, 0.85, 1.2) * vibrato
    return np.minimum(np.float32(8) * hump(progress, 1.0), 1) * tone(wavetable(*SAW), hertz, n)


def marimba(rng: np.random.Generator, n: int) -> np.ndarray:
    """Struck metal bars: high inharmonic partials that ring."""
    number, progress = beats(rng, (0.16, 0.26), n)
    hertz = uniform(rng, 1050, 1350) * per_beat(rng, number, 0.8, 1.3)
    sine = wavetable(*SINE)
    low = np.float32(0.7) * decay(progress, 1.1, 1) * tone(sine, hertz, n)
    return low + np.float32(0.35) * decay(progress, 0.5, 2) * tone(sine, hertz * np.float32(2.76), n)


def helicopter(rng: np.random.Generator, n: int) -> np.ndarray:
    """Rotor blades: pulses of dull noise, some thirteen a second, over a rumble."""
    _, progress = beats(rng, (0.066, 0.09), n)
    pulses = decay(progress, 0.7, 2)
    blades = np.float32(1.6) * noise(rng, "low", n) + np.float32(0.7) * noise(rng, "middle", n)
    return blades * (np.float32(0.12) + pulses) + np.float32(0.12) * noise(rng, "white", n)


def siren(rng: np.random.Generator, n: int) -> np.ndarray:
    """A siren: a hollow tone that wails up and down."""
    _, progress = beats(rng, (0.45, 0.75), n)
    hertz = uniform(rng, 620, 760) * (1 + np.float32(0.9) * hump(progress, 1.0))
    return tone(wavetable(1.0, 0.0, 0.45, 0.0, 0.25, 0.0, 0.1), hertz, n)


def bus(rng: np.random.Generator, n: int) -> np.ndarray:
    """A diesel at idle: a steady low hum and a little hiss."""
    hertz = uniform(rng, 52, 68)
    hum = tone(wavetable(0.5, 0.9, 1.0, 0.8, 0.5, 0.25, 0.1), hertz, n)
    knock = np.float32(0.8) + np.float32(0.2) * tone(wavetable(*SINE), hertz * 0.25, n)
    return knock * hum + np.float32(0.25) * noise(rng, "low", n) + np.float32(0.06) * noise(rng, "high", n)


def saw(rng: np.random.Generator, n: int) -> np.ndarray:
    """A power saw: a buzz up to the highest frequencies, loud broad noise, revving."""
    _, progress = beats(rng, (0.6, 1.0), n)
    hertz = uniform(rng, 190, 260) * (np.float32(0.9) + np.float32(0.35) * hump(progress, 1.0))
    teeth = tone(wavetable(*[1.0] * 24), hertz, n)
    return np.float32(0.8) * teeth + np.float32(0.7) * noise(rng, "white", n)
