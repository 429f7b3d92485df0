"""What a configuration means: validation with one clear error, values derived from the data, comparison of two runs."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import typing
from collections.abc import Iterator, Sequence

import ml_collections

from avs_jax import backbones
from avs_jax.layers import remat, sampling

TASKS = ("s4", "ms3", "avss")
# What may differ between a run and its continuation: none of it changes the numbers of a step.
FREE_TO_CHANGE = (
    "init_from",
    "mesh",
    "train.epochs",
    "train.steps",
    "train.log_every_steps",
    "train.on_nonfinite",
    "train.max_skipped",
    "eval",
    "checkpoint",
    "data.records",
    "data.workers",
    "data.threads",
    "data.buffer",
    "data.cache",
    "data.synthetic",
    "data.val_split",
    "data.test_split",
)


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names the key and the mend."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """The run in steps: what the configuration says in epochs, for a training split of known size."""

    steps_per_epoch: int
    total_steps: int
    eval_every: int
    checkpoint_every: int
    unfreeze_at: dict[str, int]  # part of the model -> first step that trains it


def validate(config: ml_collections.ConfigDict) -> None:
    """Raises one ConfigError that lists everything wrong with `config`."""
    checks = [
        *_model(config), *_backbone(config), *_loss(config), *_data(config), *_training(config), *_evaluation(config)
    ]  # fmt: skip
    wrong = [message for good, message in checks if not good]
    if wrong:
        raise ConfigError("this configuration cannot be run:\n" + "\n".join(f"  config.{line}" for line in wrong))


Checks = Iterator[tuple[bool, str]]  # what must hold, and what to say where it does not


def _one_of(name: str, value: str, known: Sequence[str], where: str = "") -> tuple[bool, str]:
    return value in known, f"{name}={value!r}: one of {', '.join(known)}{where}"


def _model(config: ml_collections.ConfigDict) -> Checks:
    model, size = config.model, config.data.image_size
    yield _one_of("task", config.task, TASKS)
    yield _one_of("model.name", model.name, ("avsegformer", "tpavi", "vct"))
    yield _one_of("model.variant", model.variant, ("released", "paper"))
    yield _one_of("model.dtype", model.dtype, ("float32", "bfloat16"))
    yield _one_of("model.remat", model.remat, remat.POLICIES)
    classes = 71 if config.task == "avss" else 1
    yield model.num_classes == classes, f"model.num_classes={model.num_classes}: {classes} for task {config.task!r}"
    if model.name == "avsegformer":
        yield _one_of("model.mixer", model.mixer, ("channel", "cross", "none"))
        yield _one_of("model.query_generator.name", model.query_generator.name, ("attention", "repeat"))
        for part in ("encoder", "decoder"):
            rate = model[part].dropout
            yield 0 <= rate < 1, f"model.{part}.dropout={rate}: at least 0 and below 1"
    if model.name in ("avsegformer", "vct"):
        yield _one_of("model.deformable", model.deformable, typing.get_args(sampling.Form))
        width, heads = model.embed_dim, model.num_heads
        yield width % heads == 0, f"model.embed_dim={width}: a multiple of model.num_heads={heads}"
        yield width % 32 == 0, f"model.embed_dim={width}: a multiple of 32, the number of group-norm groups"
    if model.name == "vct":
        yield from _vct(model, size)
    yield (
        len(size) == 2 and all(side > 0 and side % 32 == 0 for side in size),
        f"data.image_size={tuple(size)}: (height, width), each a multiple of 32, the coarsest stride",
    )


def _vct(model: ml_collections.ConfigDict, size: Sequence[int]) -> Checks:
    generator, pixels = model.query_generator, size[0] * size[1] // 16
    yield _one_of("model.query_generator.name", generator.name, ("vision", "audio"))
    yield _one_of("model.query_generator.grouping", generator.grouping, ("gumbel", "softmax", "none"))
    yield (
        model.embed_dim % generator.num_heads == 0,
        f"model.query_generator.num_heads={generator.num_heads}: a divisor of model.embed_dim={model.embed_dim}",
    )
    yield _one_of("model.fusion", model.fusion, ("none", "multiply", "add", "concat"))
    yield (
        generator.num_pixels == pixels,
        f"model.query_generator.num_pixels={generator.num_pixels}: {pixels} for data.image_size={tuple(size)}",
    )


def _backbone(config: ml_collections.ConfigDict) -> Checks:
    rate = config.model.backbone.drop_path
    yield 0 <= rate < 1, f"model.backbone.drop_path={rate}: at least 0 and below 1"
    try:
        backbones.channels(config.model.backbone)
    except ValueError as error:
        yield False, str(error)


def _loss(config: ml_collections.ConfigDict) -> Checks:
    loss, where = config.loss, f" for task {config.task!r}"
    if config.model.name == "vct":
        yield _one_of("loss.pac_target", loss.pac_target, ("category", "labels"))
        yield loss.max_targets > 0, f"loss.max_targets={loss.max_targets}: at least 1"
        yield loss.num_points > 0, f"loss.num_points={loss.num_points}: at least 1"
        yield (
            0 <= loss.importance <= 1 <= loss.oversample,
            f"loss.importance={loss.importance}, loss.oversample={loss.oversample}: a share, and at least 1",
        )
    else:
        yield _one_of("loss.main", loss.main, ("cross_entropy",) if config.task == "avss" else ("dice", "bce"), where)
    if config.model.name == "avsegformer":
        yield _one_of("loss.mix", loss.mix, ("dice", "bce", "none"))
    if config.model.name == "tpavi":
        yield _one_of("loss.avm.form", loss.avm.form, TASKS)
        yield _one_of("loss.avm.pooling", loss.avm.pooling, ("average", "max"))
        yield _one_of("loss.avm.distance", loss.avm.distance, ("cosine", "kl", "euclidean"))
        yield _one_of("loss.avm.target", loss.avm.target, ("sound", "closest"))
        stages = tuple(loss.avm.stages)
        yield (
            loss.avm.weight == 0 or (stages and set(stages) <= set(config.model.stages)),
            f"loss.avm.stages={stages}: some of model.stages={tuple(config.model.stages)}",
        )
    yield _one_of("loss.frames", loss.frames, ("first", "all"))
    yield (
        loss.frames != "first" or config.task == "s4",
        f"loss.frames='first': only for task 's4', not {config.task!r}",
    )


def _data(config: ml_collections.ConfigDict) -> Checks:
    scales = tuple(config.data.scales)
    yield all(scale > 0 for scale in scales), f"data.scales={scales}: multiples of data.image_size, each above 0"
    yield (
        not config.data.cached_audio or config.model.vggish.frozen,
        "data.cached_audio: only with model.vggish.frozen=True; a VGGish that trains has new embeddings in every step",
    )
    yield (
        not config.data.cached_audio or config.model.name != "vct",
        "data.cached_audio: not with model.name='vct', which reads VGGish's maps, not its embedding",
    )


def _training(config: ml_collections.ConfigDict) -> Checks:
    train = config.train
    yield train.batch_size > 0, f"train.batch_size={train.batch_size}: at least 1"
    frames, shared_out = config.data.num_frames, [train.batch_size]
    if config.model.name != "tpavi" and config.loss.frames == "all" and not train.supervised_frames_only:
        shared_out.append(train.batch_size * frames)
    yield (
        train.accumulate > 0 and any(each % train.accumulate == 0 for each in shared_out),
        f"train.accumulate={train.accumulate}: a divisor of train.batch_size={train.batch_size} (or of "
        "its frames, where each of them carries a loss and none interact)",
    )
    yield 0.0 <= train.ema_decay < 1.0, f"train.ema_decay={train.ema_decay}: at least 0 and below 1"
    for name, alone in (
        ("train.supervised_frames_only", train.supervised_frames_only),
        ("eval.annotated_frames_only", config.eval.annotated_frames_only),
    ):
        yield (
            not alone or config.model.name != "tpavi",
            f"{name}: not with model.name='tpavi', whose frames interact",
        )
    packed = tuple(train.packed_frames)
    yield (
        all(1 <= each <= frames for each in packed),
        f"train.packed_frames={packed}: frames a clip, from 1 to data.num_frames={frames}",
    )
    yield _one_of("train.on_nonfinite", train.on_nonfinite, ("stop", "skip"))
    yield train.max_skipped >= 0, f"train.max_skipped={train.max_skipped}: at least 0"
    sizes = config.mesh.to_dict()
    yield (
        all(size == -1 or size > 0 for size in sizes.values()) and list(sizes.values()).count(-1) <= 1,
        f"mesh={sizes}: numbers of devices, one of which may be -1 for all that are left",
    )
    yield _one_of("optimizer.name", config.optimizer.name, ("adamw", "adam", "sgd"))
    yield _one_of("optimizer.decay", config.optimizer.decay, ("all", "weights"))
    yield _one_of("optimizer.schedule", config.optimizer.schedule, ("constant", "cosine", "poly"))


def _evaluation(config: ml_collections.ConfigDict) -> Checks:
    chosen, best = config.eval.protocols, config.checkpoint.best_metric
    known = ("clip", "avss", "vct", "dataset") if config.task == "avss" else ("clip", "avsbench", "vct", "dataset")
    size = tuple(config.eval.size)
    yield not size or (len(size) == 2 and min(size) > 0), f"eval.size={size}: (height, width), or () for the image's"
    for protocol in chosen:
        yield protocol in known, f"eval.protocols has {protocol!r}: one of {', '.join(known)} for task {config.task!r}"
    yield "clip" in chosen, "eval.protocols: 'clip' is always among them, as the figure that can be compared"
    yield (
        best.partition("/")[0] in chosen,
        f"checkpoint.best_metric={best!r}: PROTOCOL/METRIC with a protocol of eval.protocols",
    )


def part_size(config: ml_collections.ConfigDict) -> int:
    """Clips in each of the parts that `train.accumulate` makes of a batch; frames, where clips cannot be shared out."""
    clips, parts = config.train.batch_size, max(config.train.accumulate, 1)
    return clips // parts if clips % parts == 0 else clips * config.data.num_frames // parts


def plan(config: ml_collections.ConfigDict, num_clips: int) -> Plan:
    """Turns epochs into steps for a training split of `num_clips` clips (the last batch of an epoch is not dropped)."""
    steps_per_epoch = -(-num_clips // config.train.batch_size)

    def steps(section: ml_collections.ConfigDict) -> int:
        return max(1, section.every_steps or round(section.every_epochs * steps_per_epoch))

    return Plan(
        steps_per_epoch=steps_per_epoch,
        total_steps=config.train.steps or round(config.train.epochs * steps_per_epoch),
        eval_every=steps(config.eval),
        checkpoint_every=steps(config.checkpoint),
        unfreeze_at={part: round(epochs * steps_per_epoch) for part, epochs in config.optimizer.freeze.items()},
    )


def flat(config: ml_collections.ConfigDict) -> dict[str, object]:
    """Returns {"train.batch_size": 2, ...} as it reads back from JSON (tuples become lists)."""

    def walk(node, prefix):
        for key, value in node.items():
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    return dict(walk(json.loads(json.dumps(config.to_dict())), ""))


def claim_workdir(workdir: pathlib.Path, config: ml_collections.ConfigDict, write: bool = True) -> None:
    """Writes the configuration into a new workdir, or checks that an old one belongs to the same run.

    Of several processes all check, and one writes.

    Raises:
      ConfigError: the workdir holds a run of another configuration; nothing is touched.
    """
    path = workdir / "config.json"
    mine = flat(config)
    if path.exists():
        try:
            theirs = json.loads(path.read_text())
        except ValueError as error:
            raise ConfigError(f"{path} is not readable JSON ({error}): remove it, or use another --workdir") from error
        differ = [
            f"  config.{key}: {theirs.get(key, '(absent)')} there, {mine.get(key, '(absent)')} here"
            for key in sorted(mine.keys() | theirs.keys())
            if mine.get(key) != theirs.get(key) and not _free(key)
        ]
        if differ:
            raise ConfigError(
                f"{workdir} holds a run of another configuration:\n" + "\n".join(differ) + "\nuse another --workdir, "
                "or the configuration of that run"
            )
    if not write:
        return
    workdir.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(mine, indent=1))
    os.replace(partial, path)


def _free(key: str) -> bool:
    return any(key == name or key.startswith(name + ".") for name in FREE_TO_CHANGE)
