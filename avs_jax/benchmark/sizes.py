"""The sizes that a configuration gives its programs."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Sizes:
    """`clips` of `frames` frames of `image` (height, width) pixels."""

    clips: int
    frames: int
    image: tuple[int, int]

    @classmethod
    def of(cls, config, training: bool, supervised_only: bool = True) -> Sizes:
        """Sizes in training or evaluation.

        Training has only the first frames where `train.supervised_frames_only` and `loss.frames` say so, but for a
        program that cannot make use of it (`supervised_only=False`). Of batches whose number of annotated frames
        changes it is the largest.
        """
        clips = config.train.batch_size if training else config.eval.batch_size
        first = config.train.supervised_frames_only and config.loss.frames == "first"
        alone = training and supervised_only and first
        return cls(clips, 1 if alone else config.data.num_frames, tuple(config.data.image_size))

    @property
    def num_frames(self) -> int:
        return self.clips * self.frames

    @property
    def quarter(self) -> tuple[int, int]:
        """Height and width of the finest map."""
        return self.image[0] // 4, self.image[1] // 4

    @property
    def levels(self) -> tuple[tuple[int, int], ...]:
        """Height and width of the three maps that the encoder reads."""
        return tuple((self.image[0] // stride, self.image[1] // stride) for stride in (8, 16, 32))

    @property
    def tokens(self) -> int:
        return sum(height * width for height, width in self.levels)
