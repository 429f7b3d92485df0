"""What one record holds: a clip as a `tf.train.Example`, declared through TensorFlow Datasets' features.

Frames stay encoded as they were found (JPEG or PNG); masks are PNGs of class indices; the waveform is mono int16
at 16 kHz, stored as bytes (as int64 varints it would be four times as large). TFDS's features write the examples, so
`tfds.builder_from_directory(...)` reads them; `decode` reads them ten times as fast, straight from the protobuf.
"""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from data_pipeline.tfrecord import RecordError

SCHEMA_VERSION = 1
"""Raised by one whenever what a record must hold, or its meaning, changes; records of another version are refused."""

TFDS_VERSION = f"{SCHEMA_VERSION}.0.0"

EMBEDDING = 128  # numbers of a VGGish embedding


@dataclasses.dataclass(frozen=True)
class Record:
    """One clip, T seconds long.

    Attributes:
      name: unique in its split.
      split: "train", "val" or "test".
      category: S4: the kind of the sounding object; elsewhere empty.
      subset: AVSS: "v1s", "v1m" or "v2"; elsewhere empty.
      frames: one encoded image (JPEG or PNG) a second; at most T.
      masks: PNG of class indices, mask k belongs to frame k; at most T.
      frame_valid, mask_valid: (T,) bool, a real frame; an annotated frame.
      log_mel: (T, 96, 64) float32, one VGGish patch a second.
      audio: (n,) int16 at 16 kHz, empty where the data set has no waveform.
      classes: (k,) int64, the class indices other than background that occur in the masks, ascending.
      pre_masks: encoded pre-segmented images, one for each frame; empty where the data set has none.
      audio_embedding: (T, 128) float32, VGGish's output for `log_mel`; (0, 128) where it was not asked for.
    """

    name: str
    split: str
    category: str
    subset: str
    frames: list[bytes]
    masks: list[bytes]
    frame_valid: np.ndarray
    mask_valid: np.ndarray
    log_mel: np.ndarray
    audio: np.ndarray
    classes: np.ndarray
    pre_masks: list[bytes] = dataclasses.field(default_factory=list)
    audio_embedding: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, EMBEDDING), np.float32))


def features() -> tfds.features.FeaturesDict:
    """The record's fields as TFDS features, in the form that needs no TensorFlow to write or read."""
    feature = tfds.features
    encoded = feature.Sequence(feature.Scalar(np.object_))
    return feature.FeaturesDict(
        {
            "schema_version": feature.Scalar(np.int64),
            "name": feature.Text(),
            "split": feature.Text(),
            "category": feature.Text(),
            "subset": feature.Text(),
            "frames": encoded,
            "masks": encoded,
            "frame_valid": feature.Tensor(shape=(None,), dtype=np.bool_),
            "mask_valid": feature.Tensor(shape=(None,), dtype=np.bool_),
            "log_mel": feature.Tensor(shape=(None, 96, 64), dtype=np.float32, encoding="bytes"),
            "audio": feature.Tensor(shape=(None,), dtype=np.int16, encoding="bytes"),
            "classes": feature.Tensor(shape=(None,), dtype=np.int64),
            "pre_masks": encoded,
            "audio_embedding": feature.Tensor(shape=(None, EMBEDDING), dtype=np.float32, encoding="bytes"),
        }
    )


def encode(record: Record, declared: tfds.features.FeaturesDict | None = None) -> bytes:
    """The record as a serialised `tf.train.Example`, the same bytes on every run."""
    fields = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    raw = (declared or features()).serialize_example({"schema_version": SCHEMA_VERSION, **fields})
    # protobuf writes maps in any order unless told otherwise
    return tf_example_pb2.Example.FromString(raw).SerializeToString(deterministic=True)


def decode(raw: bytes) -> Record:
    """The inverse of `encode`; arrays are read-only views.

    Raises:
      RecordError: the record was made by another version of the schema.
    """
    found = tf_example_pb2.Example.FromString(raw).features.feature
    version = list(found["schema_version"].int64_list.value)
    if version != [SCHEMA_VERSION]:
        made_by = f"version {version[0]} of the record schema" if version else "another program"
        raise RecordError(
            f"this record was made by {made_by}, this code reads version {SCHEMA_VERSION}: "
            "convert the data set again (python -m data_pipeline.convert)"
        )
    return Record(
        **{name: found[name].bytes_list.value[0].decode() for name in ("name", "split", "category", "subset")},
        frames=list(found["frames"].bytes_list.value),
        masks=list(found["masks"].bytes_list.value),
        frame_valid=np.array(found["frame_valid"].int64_list.value, bool),
        mask_valid=np.array(found["mask_valid"].int64_list.value, bool),
        log_mel=np.frombuffer(found["log_mel"].bytes_list.value[0], np.float32).reshape(-1, 96, 64),
        audio=np.frombuffer(found["audio"].bytes_list.value[0], np.int16),
        classes=np.array(found["classes"].int64_list.value, np.int64),
        pre_masks=list(found["pre_masks"].bytes_list.value),
        audio_embedding=np.frombuffer(b"".join(found["audio_embedding"].bytes_list.value), np.float32).reshape(
            -1, EMBEDDING
        ),
    )


def describe(raw: bytes) -> dict:
    """What the index keeps of a record, so that clips can be listed and paired without reading them."""
    record = decode(raw)
    return {
        "name": record.name,
        "category": record.category,
        "classes": record.classes.tolist(),
        "annotated": int(record.mask_valid.sum()),
    }


def encode_mask(mask: np.ndarray) -> bytes:
    """An (H, W) uint8 array of class indices as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return buffer.getvalue()
