"""Measures what it costs to read records, and how many cores would feed an accelerator.

    python -m data_pipeline.benchmark data/avsbench_s4 --image-size 512 --first-frame
    python -m data_pipeline.benchmark data/avsbench_avss --packed --workers 0,1,2,4 --consumption 3.5

By part, in processor time of one core; then what the loader delivers by the clock; then the cores for one H200 and one
v5e-8, which is computed, not measured: the assumptions are printed with it.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from absl import flags

from data_pipeline import augment, loader, schema
from data_pipeline.clips import ClipSource, decode_image, decode_mask, images_read
from data_pipeline.options import LoaderError, LoaderOptions
from data_pipeline.records import open_set
from data_pipeline.tfrecord import RecordError

# GFLOP a frame of a forward pass, by backbone and image size (AVSegFormer; avs_jax.benchmark counts them).
GFLOP = {("resnet50", 224): 82, ("pvt_v2_b5", 224): 97, ("resnet50", 512): 388, ("pvt_v2_b5", 512): 481}
PEAK = {"H200": 989e12, "v5e-8": 8 * 197e12}  # bf16 FLOP/s, as the makers state them
UTILISATION = 0.4
TRAINING = 3  # forward and backward pass, in forward passes

PARTS = ("read", "parse", "decode frames", "decode masks", "resize")


@dataclasses.dataclass(frozen=True)
class Cost:
    """What clips cost one core, and what they hold.

    Attributes:
      parts: seconds a clip of each of PARTS, of what else there is ("rest"), and of all ("clip").
      pictures: frames and masks decoded for a clip.
      frames: frames a clip that the model computes.
    """

    parts: dict[str, float]
    pictures: float
    frames: float


def measure(records: str, split: str, options: LoaderOptions, clips: int) -> Cost:
    """Reads up to `clips` clips of a split on one core.

    Raises:
      RecordError, LoaderError: as for `loader.train_batches`.
    """
    opened = open_set(records, options.task)
    raw, source = opened.source(split), ClipSource(opened, split, options, training=True)
    number = min(clips, len(raw))
    if not number:
        raise LoaderError(f"split {split!r} of {opened.folder} has no clips")
    preprocess = augment.PREPROCESS[options.preprocessing(training=True)]
    for index in range(min(3, number)):  # libraries load, files open
        source.finish(source[index])
    spent, pictures = dict.fromkeys(("clip", *PARTS), 0.0), 0
    for index in range(number):
        with _timed(spent, "read"):
            payload = raw[index]
        with _timed(spent, "parse"):
            record = schema.decode(payload)
        with _timed(spent, "decode frames"):
            frames = [decode_image(data) for data in record.frames[: images_read(record, options)]]
        with _timed(spent, "decode masks"):
            masks = [decode_mask(data) for data in record.masks[: options.frames]]
        pictures += len(frames) + len(masks)
        with _timed(spent, "resize"):
            preprocess(
                np.stack(frames), np.stack(masks or [np.zeros(frames[0].shape[:2], np.uint8)]), options.image_size
            )
        with _timed(spent, "clip"):
            source.finish(source[index])
    parts = {part: seconds / number for part, seconds in spent.items()}
    parts["rest"] = max(0.0, parts["clip"] - sum(parts[part] for part in PARTS))
    computed = sum(source.annotated[:number]) / number if options.packed else options.frames
    return Cost(parts, pictures / number, computed)


@contextmanager
def _timed(spent: dict[str, float], part: str) -> Iterator[None]:
    start = time.process_time()
    yield
    spent[part] += time.process_time() - start


def delivered(records: str, split: str, options: LoaderOptions, seconds: float) -> float:
    """Clips a second, by the clock, that training batches bring."""
    batches = loader.train_batches(records, split, options)
    try:
        for _ in range(options.buffer + 2 * max(1, options.workers)):  # what was read before anyone asked
            next(batches)
        start, number = time.perf_counter(), 0
        while (passed := time.perf_counter() - start) < seconds:
            next(batches)
            number += options.batch_size
        return number / passed
    finally:
        batches.close()


def needs(cost: Cost, size: int) -> list[tuple[str, str, float, float, float]]:
    """Backbone, accelerator, frames/s that it would compute, clips/s that it would take, and cores that bring them."""
    found = []
    for (backbone, pixels), gflop in GFLOP.items():
        for device, peak in PEAK.items():
            if pixels == size:
                frames = UTILISATION * peak / (TRAINING * gflop * 1e9)
                clips = frames / cost.frames
                found.append((backbone, device, frames, clips, clips * cost.parts["clip"]))
    return found


def report(cost: Cost, options: LoaderOptions, say: Callable[[str], None] = print) -> None:
    """Prints costs, and what an accelerator would need."""
    clip = cost.parts["clip"]
    say(f"one core, {options.image_size[0]} x {options.image_size[1]} pixels: {1e3 * clip:.2f} ms a clip")
    for part in (*PARTS, "rest"):
        say(f"  {part:<14}{1e3 * cost.parts[part]:8.2f} ms")
    decoding = cost.parts["decode frames"] + cost.parts["decode masks"]
    say(f"  {cost.pictures / decoding:.0f} pictures/s decoded, {cost.pictures / clip:.0f} pictures/s made ready")
    rows = needs(cost, options.image_size[0])
    if not rows:
        sizes = ", ".join(map(str, sorted({size for _, size in GFLOP})))
        say(f"cores for accelerators: known for images of {sizes} pixels")
        return
    say(
        f"cores for an accelerator in training (computed, not measured): AVSegFormer at {UTILISATION:.0%} of its bf16 "
        f"peak, a step as {TRAINING} forward passes, {cost.frames:.1f} frames computed a clip"
    )
    for backbone, device, frames, clips, cores in rows:
        say(f"  {backbone:<10} {device:<6}{frames:8.0f} frames/s {clips:8.0f} clips/s {cores:8.1f} cores")


def _numbers(text: str) -> list[int]:
    parts = [part for part in text.split(",") if part]
    if not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"give whole numbers with commas between them, not {text!r}")
    return list(map(int, parts))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m data_pipeline.benchmark", description=__doc__.partition("\n")[0])
    parser.add_argument("records", help="a converted set")
    parser.add_argument("--split", default="train")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--first-frame", action="store_true", help="of each clip alone, as S4 trains")
    parser.add_argument("--packed", action="store_true", help="annotated frames alone, as AVSS trains")
    parser.add_argument("--flip", action="store_true", help="mirror half of the clips")
    parser.add_argument("--clips", type=int, default=200, help="to time by part (200)")
    parser.add_argument("--workers", type=_numbers, default="0,1,2", help="of the loader, to time (0,1,2)")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each of them (5)")
    parser.add_argument("--consumption", type=float, help="clips/s that training takes, to compare with")
    values = parser.parse_args(arguments)
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # which Grain's processes ask for
    try:
        options = LoaderOptions(
            task=open_set(values.records).task,
            image_size=(values.image_size, values.image_size),
            batch_size=values.batch_size,
            supervised_frames_only=values.first_frame,
            packed=values.packed,
            flip=values.flip,
        )
        report(measure(values.records, values.split, dataclasses.replace(options, flip=False), values.clips), options)
        for workers in values.workers:
            rate = delivered(
                values.records, values.split, dataclasses.replace(options, workers=workers), values.seconds
            )
            headroom = f", {rate / values.consumption:.1f} times what training takes" if values.consumption else ""
            print(f"loader, {workers} worker processes: {rate:.1f} clips/s{headroom}", flush=True)
    except (RecordError, LoaderError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
