"""One record -> one clip of a batch: decoding, published preprocessing, random transforms, padding to T frames."""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
from PIL import Image

from data_pipeline import audio_conditions, augment, schema
from data_pipeline.options import LoaderError, LoaderOptions
from data_pipeline.records import RecordSet
from data_pipeline.tfrecord import RecordError

_JPEG = b"\xff\xd8"


def decode_image(data: bytes) -> np.ndarray:
    """An encoded JPEG or PNG as (H, W, 3) uint8 RGB; the same pixels as Pillow's."""
    if data.startswith(_JPEG):
        return simplejpeg.decode_jpeg(data, colorspace="RGB")
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def decode_mask(data: bytes) -> np.ndarray:
    """A PNG of class indices as (H, W) uint8."""
    return np.asarray(Image.open(io.BytesIO(data)))


def images_read(record: schema.Record, options: LoaderOptions) -> int:
    """How many of a clip's frames are decoded: where only annotated ones are delivered, none after the last of them."""
    annotated = np.flatnonzero(record.mask_valid[: options.frames])
    if options.packed and annotated.size:
        return int(annotated[-1]) + 1
    return options.frames


class ClipSource:
    """The clips of one split, decoded: a random-access source for Grain.

    `self[i]` does what is the same in every epoch (and keeps it, where `options.cache` says so); `finish` does the
    random transforms and the padding.
    """

    def __init__(self, opened: RecordSet, split: str, options: LoaderOptions, training: bool):
        if options.hears_embeddings and not opened.vggish:
            raise LoaderError(
                f"{opened.folder} holds no audio embeddings: convert the data set again with --cache-audio VGGISH, or "
                "set config.data.cached_audio=False"
            )
        self._records = opened.source(split)
        self._options = options
        self._audio = audio_conditions.AudioCondition.parse(options.audio)
        self._numbers = {name: number for number, name in enumerate(opened.categories)}
        self._crops = training and options.min_crop < 1
        self._scales = options.scales if training else ()
        self._colours = training and options.colour
        self._flips = training and options.flip
        self._preprocess = None if self._crops or self._scales else augment.PREPROCESS[options.preprocessing(training)]
        self._cache: dict[int, dict] | None = {} if options.cache else None

    def __getstate__(self) -> dict:  # what goes to worker processes
        return self.__dict__ | {"_cache": None if self._cache is None else {}}

    def __len__(self) -> int:
        return len(self._records)

    def __repr__(self) -> str:
        return f"ClipSource({self._records!r})"

    @property
    def annotated(self) -> list[int]:
        """How many frames of each clip are annotated; T at most, which stands where the records do not tell."""
        length = self._options.frames
        return [min(note.get("annotated", length), length) for note in self._records.notes]

    @property
    def is_random(self) -> bool:
        """Whether `finish` needs a random generator."""
        return bool(self._crops or self._scales or self._colours or self._flips)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if self._cache is None:
            return self._decode(index)
        if index not in self._cache:
            # copies, because a view would keep the whole record in memory
            self._cache[index] = {name: np.array(value) for name, value in self._decode(index).items()}
        return self._cache[index]

    def finish(self, clip: dict[str, np.ndarray], rng: np.random.Generator | None = None) -> dict[str, np.ndarray]:
        """The clip as it stands in a batch; the arrays that came in are left as they are."""
        size, count = self._options.image_size, len(clip["frames"])
        frames, masks = clip["frames"], clip["masks"]
        if "pre_masks" in clip:  # treated as more frames, as published
            frames = np.concatenate([frames, clip["pre_masks"]])
        if self._crops:
            frames, masks = augment.random_crop(frames, masks, size, self._options.min_crop, rng)
        if self._scales:
            frames, masks = augment.random_scale_crop(frames, masks, size, self._scales, rng)
        if self._colours:
            frames = augment.random_colours(frames, rng)
        if self._flips:
            frames, masks = augment.random_flip(frames, masks, rng)
        frames, masks = augment.pad(frames, masks, size)
        images = {"frames": frames[:count], "masks": masks}
        if "pre_masks" in clip:
            images["pre_masks"] = frames[count:]
        return clip | {name: _pad(array, self._options.frames) for name, array in images.items()}

    def _decode(self, index: int) -> dict[str, np.ndarray]:
        record = self._read(index)
        length = self._options.frames
        if len(record.frame_valid) > length and not self._options.supervised_frames_only:
            raise RecordError(
                f"{self._records.where(index)}: clip {record.name} has {len(record.frame_valid)} frames, more than "
                f"num_frames={length}"
            )
        return {
            **self._images(index, record),
            **self._sound(index, record),
            "frame_valid": _pad(record.frame_valid, length),
            "mask_valid": _pad(record.mask_valid, length),
            "clip_valid": np.bool_(True),
            "category": np.int32(self._numbers.get(record.category, -1)),
            "clip_index": np.int32(index),
        }

    def _read(self, index: int) -> schema.Record:
        raw = self._records[index]
        try:
            return schema.decode(raw)
        except RecordError as error:
            raise RecordError(f"{self._records.where(index)}: {error}") from error

    def _images(self, index: int, record: schema.Record) -> dict[str, np.ndarray]:
        """Frames and masks, and pre-segmented images where they are asked for, before any random transform."""
        length = images_read(record, self._options)
        if self._options.pre_masks and len(record.pre_masks) != len(record.frames):
            raise RecordError(
                f"{self._records.where(index)}: clip {record.name} has {len(record.pre_masks)} pre-segmented images "
                f"for {len(record.frames)} frames: put them beside its raw files (data_pipeline/pre_masks.py says "
                "where) and convert again, or set config.model.pre_masks=False"
            )
        try:
            frames = np.stack([decode_image(data) for data in record.frames[:length]])
            masks = [decode_mask(data) for data in record.masks[:length]]
            masks = np.stack(masks) if masks else np.zeros((0, *frames.shape[1:3]), np.uint8)
            segmented = [decode_image(data) for data in record.pre_masks[:length]] if self._options.pre_masks else []
        except (ValueError, OSError) as error:  # the record is as it was written, so the raw clip was bad
            raise RecordError(
                f"{self._records.where(index)}: the images of clip {record.name} cannot be decoded ({error}): "
                "repair its raw files and convert again"
            ) from error
        images = dict(zip(("frames", "masks"), self._prepared(frames, masks), strict=True))
        if segmented:  # their colours mean something, so they are not mixed here
            same_size = [augment.resize(image[None], frames.shape[1:3], nearest=True) for image in segmented]
            images["pre_masks"] = self._prepared(frames[:0], np.concatenate(same_size))[1]
        return images

    def _prepared(self, frames: np.ndarray, masks: np.ndarray) -> augment.Pair:
        if self._preprocess:
            return self._preprocess(frames, masks, self._options.image_size)
        return augment.square(frames, masks) if self._scales and self._options.task == "avss" else (frames, masks)

    def _sound(self, index: int, record: schema.Record) -> dict[str, np.ndarray]:
        length = self._options.frames
        if self._options.hears_embeddings:
            return {"audio_embedding": _pad(record.audio_embedding, length)}
        return {"log_mel": _pad(self._log_mel(index, record), length)}

    def _log_mel(self, index: int, record: schema.Record) -> np.ndarray:
        if self._audio.borrows:
            return self._read(audio_conditions.lender(self._audio, index, self._records.notes)).log_mel
        padding = "zeros" if self._options.task == "avss" else "repeat"
        return audio_conditions.log_mel(self._audio, record, index, padding)


def _pad(array: np.ndarray, length: int) -> np.ndarray:
    """The first `length` entries, filled up with zeros."""
    if len(array) >= length:
        return array[:length]
    return np.concatenate([array, np.zeros((length - len(array), *array.shape[1:]), array.dtype)])
