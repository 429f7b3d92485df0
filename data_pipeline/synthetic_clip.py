"""One synthetic audio-visual clip: what is on screen, what sounds in which second, and the sound track.

`make_clip` is a pure function of its arguments. Random numbers come from NumPy's PCG64, through `Generator.random`
alone; pixels and samples are made of operations whose result IEEE 754 fixes, so a clip is the same on any machine.

Which objects sound is drawn apart from how they look, where they are, how they move and which covers which: pictures
alone say nothing about it.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from data_pipeline import labels, synthetic_film, synthetic_sounds
from data_pipeline.synthetic_kinds import KINDS, Kind

VERSION = 1  # of the clips: another number whenever a seed gives other pixels or samples than before
SAMPLE_RATE = synthetic_sounds.SAMPLE_RATE
PATCH_SAMPLES = 15360  # a log-mel patch is 96 hops of 160 samples: 0.96 s
TASKS = ("s4", "ms3", "avss")
SPLITS = ("train", "val", "test")
SUBSETS = ("v1s", "v1m", "v2")  # of AVSS, one after the other

_FOUR_OBJECTS = 0.3  # share of clips with four objects; the others have three
_SOFT_OFF_SCREEN = 0.1  # share of single-source clips with a soft sound from off screen
_OFF_SCREEN = 0.25  # share of multi-source clips with a sound from off screen, as loud as the others
_ALL_SILENT_SECOND = 0.7  # share of multi-source clips with a second in which nothing on screen sounds
_FADE = 320  # samples
_SOFT = 0.1  # level of a soft sound from off screen, as a share of the source's
_LOUDNESS = (0.03, 0.09)  # root mean square of one source, full scale 1


class RecipeError(ValueError):
    """Clips that cannot be made; the message says what to give instead."""


@dataclasses.dataclass(frozen=True)
class Clip:
    """A clip with its truth. T frames of H x W pixels, N objects on screen.

    Attributes:
      name: unique in all splits of a task and seed.
      task, split, subset: "s4" | "ms3" | "avss"; "train" | "val" | "test"; "v1s" | "v1m" | "v2", or "" outside AVSS.
      category: the S4 category of the source, or "" outside S4.
      kinds: the N kinds on screen, painted in this order: later ones cover earlier ones.
      off_screen: the kind that is heard but not seen, or "".
      frames: (T, H, W, 3) uint8, RGB.
      masks: (T, H, W) uint8, visible pixels of what sounds: AVSS class index (avss) or 0/1 (s4, ms3).
      owner: (T, H, W) int8, the object seen at each pixel, -1 for the background.
      sounding: (T, N) bool, which object sounds in which second.
      mask_valid: (T,) bool, the frames whose mask belongs to the data set.
      waveform: (16000 T,) int16, mono, 16 kHz.
    """

    name: str
    task: str
    split: str
    subset: str
    category: str
    kinds: tuple[str, ...]
    off_screen: str
    frames: np.ndarray
    masks: np.ndarray
    owner: np.ndarray
    sounding: np.ndarray
    mask_valid: np.ndarray
    waveform: np.ndarray

    @property
    def objects(self) -> np.ndarray:
        """(T, N, H, W) bool, the visible pixels of every object on screen, sounding or not."""
        return self.owner[:, None] == np.arange(len(self.kinds), dtype=np.int8)[:, None, None]


def make_clip(task: str, split: str, index: int, seed: int = 0, size: tuple[int, int] = (224, 224)) -> Clip:
    """Makes a clip.

    Args:
      task: "s4", "ms3" or "avss"; every third AVSS clip is a v1s, a v1m, a v2.
      split: "train", "val" or "test".
      index: the clip's number within its split, from 0.
      seed: of the whole set, not negative.
      size: height and width of the frames in pixels, at least 16; the scene does not depend on it.

    Raises:
      RecipeError: for an unknown task or split, or an index, seed or size out of range.
    """
    check(task, split, index, seed, size)
    subset = SUBSETS[index % 3] if task == "avss" else ""
    single = task == "s4" or subset == "v1s"
    num_frames = 10 if subset == "v2" else 5
    root = np.random.SeedSequence([seed, TASKS.index(task), SPLITS.index(split), index])
    cast, scene, sound = (np.random.Generator(np.random.PCG64(stream)) for stream in root.spawn(3))

    num_objects = 4 if cast.random() < _FOUR_OBJECTS else 3
    order = _permutation(cast, len(KINDS))
    kinds = tuple(KINDS[i] for i in order[:num_objects])
    sounding, off = (_single_source if single else _several_sources)(cast, num_frames, num_objects)
    stranger = KINDS[order[num_objects]]

    frames, owner = synthetic_film.film(scene, kinds, num_frames, size)
    values = np.array([labels.AVSS_CLASSES.index(kind.name) if task == "avss" else 1 for kind in kinds] + [0], np.uint8)
    heard = np.concatenate([sounding, np.zeros((num_frames, 1), bool)], axis=1)  # column -1: the background
    masks = np.where(heard, values, 0).astype(np.uint8)[np.arange(num_frames)[:, None, None], owner]
    annotated = 1 if single and split == "train" else num_frames
    return Clip(
        name=f"{task}_{split}_{seed}_{index:06d}",
        task=task,
        split=split,
        subset=subset,
        category=kinds[int(sounding[0].argmax())].category if task == "s4" else "",
        kinds=tuple(kind.name for kind in kinds),
        off_screen=stranger.name if off.any() else "",
        frames=frames,
        masks=masks,
        owner=owner,
        sounding=sounding,
        mask_valid=np.arange(num_frames) < annotated,
        waveform=_soundtrack(sound, (*kinds, stranger), np.column_stack([sounding, off]), soft=single),
    )


def check(task: str, split: str, index: int, seed: int, size: tuple[int, int]) -> None:
    """Raises RecipeError where `make_clip` cannot make a clip of these arguments."""
    if task not in TASKS:
        raise RecipeError(f"task is {task!r}; use one of {', '.join(TASKS)}")
    if split not in SPLITS:
        raise RecipeError(f"split is {split!r}; use one of {', '.join(SPLITS)}")
    if index < 0 or seed < 0:
        raise RecipeError(f"index is {index}, seed is {seed}; neither may be negative")
    if len(size) != 2 or min(size) < 16:
        raise RecipeError(f"size is {size}; give height and width, at least 16 pixels each")


def _permutation(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.argsort(rng.random(n), kind="stable")


def _single_source(rng: np.random.Generator, num_frames: int, num_objects: int) -> tuple[np.ndarray, np.ndarray]:
    """One source all the time: (T, N) bool; in some clips something off screen too: (T,) bool."""
    sounding = np.zeros((num_frames, num_objects), bool)
    sounding[:, int(rng.random() * num_objects)] = True
    return sounding, np.full(num_frames, rng.random() < _SOFT_OFF_SCREEN)


def _several_sources(rng: np.random.Generator, num_frames: int, num_objects: int) -> tuple[np.ndarray, np.ndarray]:
    """One to three sources that start and stop from second to second: (T, N) bool, and off screen: (T,) bool.

    Every source sounds at least once. In most clips one second is made silent; in some, something off screen sounds
    in some seconds, silent ones among them.
    """
    sources = _permutation(rng, num_objects)[: 1 + int(rng.random() * 3)]
    sounding = np.zeros((num_frames, num_objects), bool)
    sounding[:, sources] = rng.random((num_frames, len(sources))) < 0.7
    seconds = _permutation(rng, num_frames)
    sounding[seconds[1 : 1 + len(sources)], sources] = True
    if rng.random() < _ALL_SILENT_SECOND:
        sounding[seconds[0]] = False
    off = (rng.random(num_frames) < 0.5) & (rng.random() < _OFF_SCREEN)
    return sounding, off


def _soundtrack(rng: np.random.Generator, kinds: tuple[Kind, ...], sounding: np.ndarray, soft: bool) -> np.ndarray:
    """Mixes what sounds over a faint noise floor: (16000 T,) int16. The last kind is off screen, and soft if so asked.

    A second's sound starts and stops with the log-mel patch that the published pipelines pair with its frame: patch t
    covers 0.96 t to 0.96 t + 0.975 s.
    """
    n = SAMPLE_RATE * len(sounding)
    mixture = np.float32(0.0005 + 0.0025 * rng.random()) * synthetic_sounds.noise(rng, "white", n)
    levels = _LOUDNESS[0] + (_LOUDNESS[1] - _LOUDNESS[0]) * rng.random(len(kinds))
    if soft:
        levels[-1] = _SOFT * levels[int(sounding[0].argmax())]
    for kind, active, level in zip(kinds, sounding.T, levels, strict=True):
        if active.any():
            voice = kind.voice(rng, n)
            mixture = mixture + voice * (_gate(active, n) * np.float32(level / kind.level))
    return np.rint(np.clip(mixture * 32768, -32768, 32767)).astype(np.int16)


def _gate(active: np.ndarray, n: int) -> np.ndarray:
    """(n,) float32 envelope: 1 in the patches where `active`, with short fades inside; the last lasts to the end."""
    gate = np.zeros(n, np.float32)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], active, [False]]).astype(np.int8)))
    ramp = np.arange(_FADE, dtype=np.float32) / _FADE
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        start, stop = first * PATCH_SAMPLES, n if last == len(active) else last * PATCH_SAMPLES
        gate[start:stop] = 1
        gate[start : start + _FADE] = ramp
        gate[stop - _FADE : stop] = ramp[::-1]
    return gate
