"""What a configuration means: validation with one clear error, values derived from the data, comparison of two runs."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib

import ml_collections

TASKS = ("s4", "ms3", "avss")
PROTOCOLS = ("avsbench", "avss", "dataset", "clip")
# What may differ between a run and its continuation: none of it changes the numbers of a step.
FREE_TO_CHANGE = (
    "init_from",
    "train.epochs",
    "train.steps",
    "train.log_every_steps",
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
    wrong = []

    def need(condition: bool, message: str) -> None:
        if not condition:
            wrong.append(message)

    model, loss = config.model, config.loss
    need(config.task in TASKS, f"task={config.task!r}: one of {', '.join(TASKS)}")
    need(model.variant in ("released", "paper"), f"model.variant={model.variant!r}: 'released' or 'paper'")
    need(model.mixer in ("channel", "cross", "none"), f"model.mixer={model.mixer!r}: 'channel', 'cross' or 'none'")
    need(model.dtype in ("float32", "bfloat16"), f"model.dtype={model.dtype!r}: 'float32' or 'bfloat16'")
    need(
        model.embed_dim % model.num_heads == 0,
        f"model.embed_dim={model.embed_dim}: a multiple of model.num_heads={model.num_heads}",
    )
    need(
        model.embed_dim % 32 == 0,
        f"model.embed_dim={model.embed_dim}: a multiple of 32, the number of group-norm groups",
    )
    classes = 71 if config.task == "avss" else 1
    need(model.num_classes == classes, f"model.num_classes={model.num_classes}: {classes} for task {config.task!r}")
    mains = ("cross_entropy",) if config.task == "avss" else ("dice", "bce")
    need(loss.main in mains, f"loss.main={loss.main!r}: one of {', '.join(mains)} for task {config.task!r}")
    need(loss.mix in ("dice", "bce", "none"), f"loss.mix={loss.mix!r}: 'dice', 'bce' or 'none'")
    need(loss.frames in ("first", "all"), f"loss.frames={loss.frames!r}: 'first' or 'all'")
    size = config.data.image_size
    need(
        len(size) == 2 and all(side > 0 and side % 32 == 0 for side in size),
        f"data.image_size={tuple(size)}: (height, width), each a multiple of 32, the coarsest stride",
    )
    train = config.train
    need(train.batch_size > 0, f"train.batch_size={train.batch_size}: at least 1")
    need(
        train.accumulate > 0 and train.batch_size % max(train.accumulate, 1) == 0,
        f"train.accumulate={train.accumulate}: a divisor of train.batch_size={train.batch_size}",
    )
    need(0.0 <= train.ema_decay < 1.0, f"train.ema_decay={train.ema_decay}: at least 0 and below 1")
    need(
        not train.supervised_frames_only or loss.frames == "first",
        "train.supervised_frames_only: only with loss.frames='first', where the other frames carry no loss",
    )
    need(
        not loss.frames == "first" or config.task == "s4",
        f"loss.frames='first': only for task 's4', not {config.task!r}",
    )
    need(
        config.optimizer.name in ("adamw", "adam", "sgd"),
        f"optimizer.name={config.optimizer.name!r}: 'adamw', 'adam' or 'sgd'",
    )
    need(
        config.optimizer.schedule in ("constant", "cosine", "poly"),
        f"optimizer.schedule={config.optimizer.schedule!r}: 'constant', 'cosine' or 'poly'",
    )
    known = PROTOCOLS if config.task == "avss" else tuple(p for p in PROTOCOLS if p != "avss")
    if config.task == "avss":
        known = tuple(p for p in known if p != "avsbench")
    for protocol in config.eval.protocols:
        need(protocol in known, f"eval.protocols has {protocol!r}: for task {config.task!r} one of {', '.join(known)}")
    need(
        "clip" in config.eval.protocols,
        "eval.protocols: 'clip' is always among them, as the figure that can be compared",
    )
    protocol = config.checkpoint.best_metric.partition("/")[0]
    need(
        protocol in config.eval.protocols,
        f"checkpoint.best_metric={config.checkpoint.best_metric!r}: PROTOCOL/METRIC with a protocol of eval.protocols",
    )
    if wrong:
        raise ConfigError("this configuration cannot be run:\n" + "\n".join(f"  config.{line}" for line in wrong))


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


def claim_workdir(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Writes the configuration into a new workdir, or checks that an old one belongs to the same run.

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
    workdir.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(mine, indent=1))
    os.replace(partial, path)


def _free(key: str) -> bool:
    return any(key == name or key.startswith(name + ".") for name in FREE_TO_CHANGE)
