"""From the loader's host batches to arrays on the devices, one batch ahead of the step that takes it."""

from __future__ import annotations

from collections.abc import Iterator

import jax
from jax.sharding import Mesh

from avs_jax import config as configuration
from avs_jax.parallel import mesh as meshes
from data_pipeline import batch, loader
from data_pipeline.workers import cores

# Model inputs and targets, and the clips' places; the rest of a batch stays on the host.
DEVICE_KEYS = (
    "frames", "log_mel", "audio_embedding", "masks", "frame_valid", "mask_valid", "clip_valid", "clip_index",
    "category", "pre_masks", "frame_index",
)  # fmt: skip


def options(config, *, training: bool, audio: str = "true", parts: int = 1) -> loader.LoaderOptions:
    """Returns the loader's settings for training or evaluation with a kind of audio.

    An evaluation's batches are as much larger as it takes to split them into `parts`; that changes none of its figures.
    """
    data = config.data
    alone = config.train.supervised_frames_only if training else config.eval.annotated_frames_only
    first = training and config.loss.frames == "first"
    return loader.LoaderOptions(
        task=config.task,
        image_size=tuple(data.image_size),
        num_frames=data.num_frames,
        batch_size=config.train.batch_size if training else -(-config.eval.batch_size // parts) * parts,
        seed=config.seed,
        audio=audio,
        supervised_frames_only=alone and first,
        packed=alone and not first,
        packed_frames=tuple(config.train.packed_frames) if alone and training and not first else (),
        audio_embedding=data.cached_audio,
        workers=min(data.workers, cores()),
        threads=data.threads,
        buffer=data.buffer,
        cache=data.cache and training,
        flip=data.flip and training,
        scales=tuple(data.scales) if training else (),
        colour=data.colour and training,
        pre_masks=config.model.name == "vct" and config.model.pre_masks,
    )


class Feed:
    """An endless stream of training batches on the devices of a mesh.

    `state` belongs to the batch that was returned last, not to the one that already waits on the device.
    """

    def __init__(self, config, mesh: Mesh):
        for clips in (config.train.batch_size, configuration.part_size(config)):
            meshes.check_split(clips, mesh)
        self._mesh = mesh
        self._source = loader.train_batches(
            config.data.records, config.data.train_split, options(config, training=True)
        )
        self._ahead = None
        self.state = self._source.get_state()

    def restore(self, state: dict) -> None:
        """Goes on after the batch that `state` belongs to; refuses a state of other data or settings."""
        self._source.set_state(state)
        self.state, self._ahead = state, None

    def __next__(self) -> dict[str, jax.Array]:
        now, self.state = self._ahead or self._pull()
        self._ahead = self._pull()
        return now

    def peek(self) -> dict[str, jax.Array]:
        """Returns the batch that the next `next` will return."""
        self._ahead = self._ahead or self._pull()
        return self._ahead[0]

    def close(self) -> None:
        """Ends the loader's threads and processes."""
        self._source.close()

    def _pull(self) -> tuple[dict[str, jax.Array], dict]:
        return meshes.put_batch(for_device(next(self._source)), self._mesh), self._source.get_state()


def for_device(arrays: dict) -> dict:
    """Returns the arrays of a batch that the model, the loss or the metrics read."""
    return {name: arrays[name] for name in DEVICE_KEYS if name in arrays}


def evaluation_batches(config, split: str, audio: str, parts: int = 1) -> Iterator[dict]:
    """Returns the host batches of a split, in order, the last one padded, each of a multiple of `parts` clips."""
    made = options(config, training=False, audio=audio, parts=parts)
    source = loader.eval_batches(config.data.records, split, made)
    return map(for_device, source)


def example_batch(config) -> dict:
    """Returns a batch of the right shapes and types, for tracing."""
    made = options(config, training=False)
    return for_device(
        batch.example_batch(1, config.data.num_frames, tuple(config.data.image_size), pre_masks=made.pre_masks)
    )
