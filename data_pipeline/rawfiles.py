"""Readers of one raw file each, images, masks and log-mels; they raise BadFile for whatever is wrong with it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipeline import audio, labels, torch_file
from data_pipeline.problems import RESTORE, BadFile, read_bytes


def read_image(path: Path) -> Image.Image:
    """Decodes all of an image file."""
    data = read_bytes(path)
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadFile(path, f"cannot be decoded ({error})", RESTORE) from error
    return image


def mask_indices(image: Image.Image, path: Path, task: str) -> np.ndarray:
    """Class indices of a mask: (h, w) uint8, by the released code's decoding for the task.

    S4: Pillow's mode 1, which makes any image black and white. MS3: mode P, which keeps grey values; 255 is 1. AVSS:
    the classes' colours, of which the released code takes unknown ones for background without a word.
    """
    if task == "s4":
        return _converted(image, path, "1").astype(np.uint8)
    if task == "ms3":
        return _from_black_and_white(_converted(image, path, "P"), path)
    try:
        return labels.colours_to_indices(_converted(image, path, "RGB"), strict=True)
    except labels.UnknownColours as error:
        raise BadFile(path, f"has {error}", "draw the mask in the classes' colours (data_pipeline.labels)") from error


def _converted(image: Image.Image, path: Path, mode: str) -> np.ndarray:
    try:
        return np.asarray(image.convert(mode))
    except ValueError as error:
        raise BadFile(path, f"has pixels of a kind that no mask has ({image.mode})", "save it as 8-bit PNG") from error


def _from_black_and_white(values: np.ndarray, path: Path) -> np.ndarray:
    others = [str(value) for value in np.unique(values) if value not in (0, 255)]
    if others:
        raise BadFile(path, f"has the values {', '.join(others[:10])} beside 0 and 255", "save it as grey 0 and 255")
    return values // 255


def read_log_mel(path: Path, num_frames: int) -> np.ndarray:
    """A pickled (T, 1, 96, 64) float tensor as (T, 96, 64) float32."""
    tensor = torch_file.load(path)
    expected = (num_frames, 1, audio.EXAMPLE_WINDOWS, audio.MEL_BANDS)
    mend = f"restore the file; a floating-point tensor of shape {expected} is expected"
    if not isinstance(tensor, np.ndarray) or not np.issubdtype(tensor.dtype, np.floating):
        raise BadFile(path, f"holds {getattr(tensor, 'dtype', type(tensor).__name__)}", mend)
    if tensor.shape != expected:
        raise BadFile(path, f"holds a tensor of shape {tensor.shape}", mend)
    if not np.isfinite(tensor).all():
        raise BadFile(path, "holds numbers that are not finite", mend)
    return tensor[:, 0].astype(np.float32)


def make_log_mel(waveform: np.ndarray, path: Path, num_frames: int) -> np.ndarray:
    """AVSS: the examples of a waveform at 16 kHz, then zeros where it is shorter than T seconds. Raises BadFile."""
    check_length(waveform, path, num_frames)
    return audio.fit_examples(audio.log_mel(waveform, audio.SAMPLE_RATE), num_frames, padding="zeros")


def check_length(waveform: np.ndarray, path: Path, num_frames: int) -> None:
    """Raises BadFile where a waveform at 16 kHz gives more log-mel examples than its clip has frames."""
    count = audio.num_examples(len(waveform))
    if count > num_frames:
        seconds = len(waveform) / audio.SAMPLE_RATE
        what = f"is {seconds:.2f} s long, {count} examples of 0.96 s where the clip takes {num_frames}"
        raise BadFile(path, what, f"cut the sound to {num_frames} s")
