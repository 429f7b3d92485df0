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
import math
from collections.abc import Sequence

import numpy as np

from data_pipeline import audio
from data_pipeline.schema import Record

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
            if kind in _WITH_VALUE and math.isfinite(float(value)):
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


def log_mel(condition: AudioCondition, record: Record, index: int, padding: str) -> np.ndarray:
    """The clip's (T, 96, 64) float32 log-mel under a condition that does not borrow.

    Args:
      condition: true, silence, noise or shift.
      record: the clip.
      index: its place in the split, which seeds the noise.
      padding: "repeat" (S4, MS3) or "zeros" (AVSS) where the front end gives fewer than T patches.

    Raises:
      AudioError: noise or shift of a record that has no waveform.
    """
    if condition.kind == "silence":
        heard = record.log_mel.any(axis=(1, 2), keepdims=True)  # False where zeros fill up AVSS's shorter clips
        return np.where(heard, audio.silence_log_mel(len(record.log_mel)), np.float32(0))
    if condition.kind in _WITH_VALUE:
        if not len(record.audio):
            raise AudioError(
                f"audio={condition.kind}: clip {record.name} has no waveform in these records: put the data set's "
                "audio_wav folder beside its other files and convert again"
            )
        waveform = audio.from_int16(record.audio)
        if condition.kind == "noise":
            waveform = _add_noise(waveform, condition.value, np.random.default_rng(index))
        else:
            waveform = _shift(waveform, condition.value)
        count = len(record.log_mel)
        return audio.fit_examples(audio.log_mel(waveform, audio.SAMPLE_RATE)[:count], count, padding)
    return record.log_mel


def _kinds(note: dict) -> set:
    """What may be heard in a clip: its category, else its classes (of binary masks: 1, "something")."""
    return {note["category"]} if note["category"] else set(note["classes"])


def _add_noise(waveform: np.ndarray, ratio_db: float, rng: np.random.Generator) -> np.ndarray:
    power = np.mean(waveform**2) / 10 ** (ratio_db / 10)
    return waveform + np.sqrt(power) * rng.standard_normal(len(waveform))


def _shift(waveform: np.ndarray, seconds: float) -> np.ndarray:
    by = int(np.clip(round(seconds * audio.SAMPLE_RATE), -len(waveform), len(waveform)))
    silence = np.zeros(abs(by))
    return np.concatenate([silence, waveform[:-by]] if by > 0 else [waveform[-by:], silence])
