"""What a clip is made to sound like: its own audio, or one that tells whether a model listens at all.

    true             the log-mel of the record
    silence          what the audio front end gives for silence (log 0.01, not 0)
    noise:DB         the waveform with white Gaussian noise at this signal-to-noise ratio
    swap             the audio of the clip half a split further on
    off_screen       the audio of a clip that shares no class with this one: a sound whose source is not in the picture
    shift:SECONDS    the waveform, that much later (earlier if negative); what is vacated is silent

All of them are functions of the clip's place in its split, so an evaluation is the same every time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipeline import audio
from data_pipeline.schema import Record

SAMPLE_RATE = 16000
_SILENCE = np.float32(np.log(0.01))
_PLAIN = ("true", "silence", "swap", "off_screen")
_WITH_VALUE = ("noise", "shift")


class AudioError(ValueError):
    """A kind of audio that does not exist, or that these records cannot give."""


@dataclasses.dataclass(frozen=True)
class AudioCondition:
    """A parsed condition: its kind, and for noise the ratio in dB, for shift the seconds."""

    kind: str
    value: float = 0.0

    @classmethod
    def parse(cls, text: str) -> AudioCondition:
        kind, _, value = text.partition(":")
        try:
            if kind in _PLAIN and not value:
                return cls(kind)
            if kind in _WITH_VALUE:
                return cls(kind, float(value))
        except ValueError:
            pass
        raise AudioError(f"audio={text!r} is not one of true, silence, noise:DB, swap, off_screen, shift:SECONDS")

    @property
    def borrows(self) -> bool:
        """Whether the sound is another clip's."""
        return self.kind in ("swap", "off_screen")


def lender(condition: AudioCondition, index: int, notes: Sequence[dict]) -> int:
    """The clip whose audio clip `index` gets, from what the index says of all clips of the split.

    Raises:
      AudioError: no other clip, or none with another kind of sound, or records that do not tell.
    """
    if len(notes) < 2:
        raise AudioError(f"audio={condition.kind}: a split of one clip has no other clip's audio")
    if condition.kind == "swap":
        return (index + len(notes) // 2) % len(notes)
    shown = _kinds(notes[index])
    for step in range(1, len(notes)):
        other = (index + step) % len(notes)
        if not shown & _kinds(notes[other]):
            return other
    raise AudioError(
        f"audio=off_screen: no clip of the split sounds surely different from {notes[index]['name']} "
        "(MS3 records do not tell what sounds): use audio=swap"
    )


def log_mel(condition: AudioCondition, record: Record, index: int, repeat_last: bool) -> np.ndarray:
    """The clip's (T, 96, 64) float32 log-mel under a condition that does not borrow.

    Args:
      condition: true, silence, noise or shift.
      record: the clip.
      index: its place in the split, which seeds the noise.
      repeat_last: how a front end that gives fewer than T patches is filled up: by its last patch (S4, MS3), or by
        zeros (AVSS).

    Raises:
      AudioError: noise or shift of a record that has no waveform.
    """
    if condition.kind == "silence":
        padding = ~record.log_mel.any(axis=(1, 2))
        return np.where(padding[:, None, None], np.float32(0), np.full_like(record.log_mel, _SILENCE))
    if condition.kind in _WITH_VALUE:
        if not len(record.audio):
            raise AudioError(
                f"audio={condition.kind}: clip {record.name} has no waveform in these records: put the data set's "
                "audio_wav folder beside its other files and convert again"
            )
        change = _add_noise if condition.kind == "noise" else _shift
        waveform = change(record.audio / 32768.0, condition.value, index)
        return fit(audio.log_mel(waveform, SAMPLE_RATE), len(record.log_mel), repeat_last)
    return record.log_mel


def fit(patches: np.ndarray, num_frames: int, repeat_last: bool) -> np.ndarray:
    """Cuts or fills (n, 96, 64) patches up to (num_frames, 96, 64)."""
    out = np.zeros((num_frames, *patches.shape[1:]), np.float32)
    out[: len(patches)] = patches[:num_frames]
    if repeat_last and len(patches):
        out[len(patches) :] = patches[-1]
    return out


def _kinds(note: dict) -> set:
    """What may be heard in a clip: its category, else its classes (of binary masks: 1, "something")."""
    return {note["category"]} if note["category"] else set(note["classes"])


def _add_noise(waveform: np.ndarray, ratio_db: float, seed: int) -> np.ndarray:
    scale = np.sqrt(np.mean(waveform**2) / 10 ** (ratio_db / 10))
    return waveform + scale * np.random.default_rng(seed).standard_normal(len(waveform))


def _shift(waveform: np.ndarray, seconds: float, _: int) -> np.ndarray:
    by = int(np.clip(round(seconds * SAMPLE_RATE), -len(waveform), len(waveform)))
    out = np.zeros_like(waveform)
    out[max(by, 0) : len(waveform) + min(by, 0)] = waveform[max(-by, 0) : len(waveform) - max(by, 0)]
    return out
