"""The loader's settings."""

from __future__ import annotations

import dataclasses

from data_pipeline import audio_conditions, augment

_FRAMES = {"s4": 5, "ms3": 5, "avss": 10}


class LoaderError(ValueError):
    """Settings that cannot give batches."""


@dataclasses.dataclass(frozen=True)
class LoaderOptions:
    """What the batches are made of, and how.

    Attributes:
      task: "s4", "ms3" or "avss".
      image_size: (height, width) of frames and masks.
      batch_size: clips of a global batch, over all processes.
      num_frames: T; the task's own (5, AVSS 10) if None.
      seed: of the shuffling and the random transforms.
      preprocess: "squash" or "centre_crop"; "published" takes the task's own for training and for evaluation.
      flip: training: mirror half of the clips.
      min_crop: training: the smallest part of each side that a random crop keeps; 1 switches it off.
      scales: training: the shorter side becomes one of these times that of `image_size`, then at most `image_size` is
        cut out and filled up to it, as VCT does; empty switches it off. In place of `preprocess`.
      colour: training: distort the colours of each frame (see `data_pipeline.colour`).
      pre_masks: deliver the pre-segmented images, too.
      audio: see `audio_conditions`.
      supervised_frames_only: deliver the first frame alone (T = 1), the only one that S4's training set annotates.
      packed: deliver annotated frames alone, those of several clips as clips of one frame (see `packing`).
      packed_frames: training: the sizes of packed batches, in frames a clip; a batch has the smallest that holds it.
      audio_embedding: deliver the audio embeddings of the records in place of log-mels, where `audio` is "true".
      workers: processes that read ahead; 0 reads in this process.
      threads: threads that read ahead in each process.
      buffer: batches that wait ready.
      cache: keep decoded clips in memory (each worker its own).
    """

    task: str
    image_size: tuple[int, int]
    batch_size: int
    num_frames: int | None = None
    seed: int = 0
    preprocess: str = "published"
    flip: bool = False
    min_crop: float = 1.0
    scales: tuple[float, ...] = ()
    colour: bool = False
    pre_masks: bool = False
    audio: str = "true"
    supervised_frames_only: bool = False
    packed: bool = False
    packed_frames: tuple[int, ...] = ()
    audio_embedding: bool = False
    workers: int = 0
    threads: int = 2
    buffer: int = 4
    cache: bool = False

    def __post_init__(self):
        audio_conditions.AudioCondition.parse(self.audio)
        if self.task not in _FRAMES:
            raise LoaderError(f"task={self.task!r} is not one of {', '.join(_FRAMES)}")
        if self.preprocess not in ("published", *augment.PREPROCESS):
            raise LoaderError(f"preprocess={self.preprocess!r} is not published, {' or '.join(augment.PREPROCESS)}")
        if not 0 < self.min_crop <= 1:
            raise LoaderError(f"min_crop={self.min_crop} is not above 0 and at most 1")
        if self.scales and (self.min_crop < 1 or min(self.scales) <= 0):
            raise LoaderError(f"scales={self.scales} are not above 0, or min_crop={self.min_crop} crops as well")
        if any(not 1 <= each <= self.frames for each in self.packed_frames):
            raise LoaderError(f"packed_frames={self.packed_frames}: frames a clip, from 1 to {self.frames}")
        if self.num_frames is not None and self.num_frames < 1:
            raise LoaderError(f"num_frames={self.num_frames} is not positive")
        if min(*self.image_size, self.batch_size) < 1:
            raise LoaderError(f"image_size={self.image_size} and batch_size={self.batch_size} must be positive")

    @property
    def frames(self) -> int:
        """T of the batches."""
        return 1 if self.supervised_frames_only else self.num_frames or _FRAMES[self.task]

    def preprocessing(self, training: bool) -> str:
        """The name of the preprocessing, the task's own where the published one is asked for."""
        return augment.published_preprocess(self.task, training) if self.preprocess == "published" else self.preprocess

    @property
    def hears_embeddings(self) -> bool:
        """Whether the batches have `audio_embedding`; other sounds than the clip's own are given as log-mels."""
        return self.audio_embedding and self.audio == "true"
