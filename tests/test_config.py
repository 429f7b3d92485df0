"""Configurations: arguments, locks, one clear error, epochs to steps, workdirs."""

import importlib
import json

import pytest

from avs_jax import config as configuration
from configs import base

NAMES = [
    "s4", "ms3", "avss", "demo", "tpavi_s4", "tpavi_ms3", "tpavi_avss", "vct_s4", "vct_ms3", "vct_avss", "vct_demo",
    "vct_ms3_demo",
]  # fmt: skip


def load(name, argument=""):
    return importlib.import_module(f"configs.{name}").get_config(argument)


@pytest.mark.parametrize("name", NAMES)
def test_every_configuration_is_valid_locked_and_documented(name):
    config = load(name)
    configuration.validate(config)
    assert config.is_locked
    doc = importlib.import_module(f"configs.{name}").__doc__
    assert "python -m avs_jax.main --config configs/" in doc
    with pytest.raises(AttributeError, match="batch_size"):
        config.train.batch_sise = 3


@pytest.mark.parametrize(
    "argument, backbone, size",
    [
        ("resnet50,224", "resnet50", 224),
        ("512,pvt_v2_b5", "pvt_v2_b5", 512),
        ("resnet50", "resnet50", 512),
        ("", "pvt_v2_b5", 512),
        ("swin_b,384", "swin_b", 384),
    ],
)
def test_the_argument_after_the_colon(argument, backbone, size):
    config = load("s4", argument)
    assert config.model.backbone.name == backbone
    assert tuple(config.data.image_size) == (size, size)


@pytest.mark.parametrize("argument, window", [("swin_b,384", 12), ("swin_b,224", 7), ("swin_t,384", 7), ("swin_s", 7)])
def test_a_swin_has_the_windows_that_it_is_published_with(argument, window):
    config = load("s4", argument)
    configuration.validate(config)
    assert (config.model.backbone.window, config.model.backbone.flavour) == (window, "detection")


def test_an_unknown_argument_is_named():
    with pytest.raises(ValueError, match="'resnet51' is neither"):
        load("s4", "resnet51,224")


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("task", "s5", "config.task='s5'"),
        ("model.variant", "new", "config.model.variant='new'"),
        ("model.mixer", "", "config.model.mixer"),
        ("model.num_heads", 7, "config.model.embed_dim=256: a multiple"),
        ("model.encoder.dropout", 1.0, "config.model.encoder.dropout=1.0"),
        ("model.backbone.drop_path", 1.0, "config.model.backbone.drop_path=1.0"),
        ("model.num_classes", 71, "config.model.num_classes=71: 1 for task 's4'"),
        ("data.image_size", (224, 100), "config.data.image_size"),
        ("train.accumulate", 3, "config.train.accumulate=3: a divisor"),
        ("train.ema_decay", 1.0, "config.train.ema_decay"),
        ("train.on_nonfinite", "ignore", "config.train.on_nonfinite='ignore': one of stop, skip"),
        ("train.max_skipped", -1, "config.train.max_skipped=-1"),
        ("mesh.fsdp", 0, "config.mesh={'data': -1, 'fsdp': 0, 'tensor': 1}: numbers of devices"),
        ("mesh.tensor", -1, "one of which may be -1"),
        ("train.packed_frames", (2, 6), "config.train.packed_frames="),
        ("loss.main", "cross_entropy", "config.loss.main"),
        ("loss.mix", "mean", "config.loss.mix"),
        ("optimizer.name", "lion", "config.optimizer.name"),
        ("optimizer.schedule", "linear", "config.optimizer.schedule"),
        ("eval.protocols", ("clip", "avss"), "config.eval.protocols has 'avss'"),
        ("eval.size", (224,), "config.eval.size="),
        ("eval.protocols", ("avsbench",), "'clip' is always among them"),
        ("checkpoint.best_metric", "refavs/J", "config.checkpoint.best_metric"),
    ],
)
def test_what_cannot_be_run_is_named(key, value, message):
    config = load("s4")
    *path, leaf = key.split(".")
    node = config
    for part in path:
        node = node[part]
    node[leaf] = value
    with pytest.raises(configuration.ConfigError, match=message.replace("(", r"\(")):
        configuration.validate(config)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda config: config.loss.avm.update(distance="cos"), "config.loss.avm.distance='cos'"),
        (lambda config: config.loss.avm.update(weight=0.5, stages=()), r"config.loss.avm.stages=\(\)"),
        (lambda config: config.train.update(supervised_frames_only=True), "train.supervised_frames_only: not with"),
        (lambda config: config.eval.update(annotated_frames_only=True), "eval.annotated_frames_only: not with"),
    ],
)
def test_what_tpavi_cannot_run_is_named(change, message):
    config = load("tpavi_s4")
    change(config)
    with pytest.raises(configuration.ConfigError, match=message):
        configuration.validate(config)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda config: config.data.update(scales=(0.0, 1.0)), r"config.data.scales=\(0.0, 1.0\): multiples of"),
        (lambda config: config.model.query_generator.update(name="text"), "config.model.query_generator.name='text'"),
        (lambda config: config.model.query_generator.update(num_pixels=9), "num_pixels=9: 9216 for data.image_size"),
        (lambda config: config.model.update(fusion="gate"), "config.model.fusion='gate'"),
        (
            lambda config: config.model.query_generator.update(num_heads=3),
            "num_heads=3: a divisor of",
        ),
        (lambda config: config.loss.update(oversample=0.5), "loss.oversample=0.5: a share, and at least 1"),
    ],
)
def test_what_vct_cannot_run_is_named(change, message):
    config = load("vct_s4")
    change(config)
    with pytest.raises(configuration.ConfigError, match=message):
        configuration.validate(config)


def test_single_frames_can_be_accumulated_where_all_carry_a_loss():
    config = load("ms3")
    config.train.accumulate = 5
    configuration.validate(config)
    config.loss.frames = "first"
    with pytest.raises(configuration.ConfigError, match="config.train.accumulate=5: a divisor"):
        configuration.validate(config)


def test_published_augmentations_of_vct():
    """Facts: shorter sides 192, 230, ..., 768 of images of 384; colours; flips."""
    for name in ("vct_s4", "vct_ms3", "vct_avss"):
        data = load(name).data
        edges = [int(384 * scale) for scale in data.scales]
        assert (len(edges), edges[0], edges[1], edges[-1]) == (16, 192, 230, 768)
        assert data.colour and data.flip and not load("s4").data.scales


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("name", "swin_l", "config.model.backbone.name is 'swin_l'; it must be one of resnet50, "),
        ("window", 0, "config.model.backbone.window is 0"),
        ("flavour", "segmentation", "config.model.backbone.flavour is 'segmentation'"),
        ("depths", (2, 2, 5, 2), "come in pairs, give even numbers"),
        ("widths", (96, 192), "give four positive numbers"),
        ("widths", (96, 192, 384, 100), "do not divide by the heads"),
    ],
)
def test_what_is_no_backbone_is_named(key, value, message):
    config = load("s4", "swin_t,224")
    config.model.backbone[key] = value
    with pytest.raises(configuration.ConfigError, match=message):
        configuration.validate(config)


def test_everything_wrong_is_in_one_error():
    config = load("s4")
    config.task, config.model.variant = "s5", "new"
    with pytest.raises(configuration.ConfigError) as error:
        configuration.validate(config)
    assert "config.task" in str(error.value)
    assert "config.model.variant" in str(error.value)


def test_epochs_become_steps():
    """The published S4 training split: 3452 clips in batches of 2, 30 epochs, backbone frozen for 5."""
    plan = configuration.plan(load("s4"), 3452)
    assert (plan.steps_per_epoch, plan.total_steps) == (1726, 51780)
    assert plan.unfreeze_at == {"backbone": 8630}
    assert plan.eval_every == plan.checkpoint_every == 1726
    config = load("avss")
    assert configuration.plan(config, 8498).steps_per_epoch == 2125
    config.train.steps, config.eval.every_steps = 10, 3
    plan = configuration.plan(config, 8498)
    assert (plan.total_steps, plan.eval_every, plan.checkpoint_every) == (10, 3, 4250)


def test_a_workdir_belongs_to_one_configuration(tmp_path):
    config = load("s4")
    configuration.claim_workdir(tmp_path, config)
    before = (tmp_path / "config.json").read_text()
    config.train.epochs, config.eval.every_steps, config.data.workers = 60.0, 7, 0  # free to change
    configuration.claim_workdir(tmp_path, config)
    assert json.loads((tmp_path / "config.json").read_text())["train.epochs"] == 60.0

    config.optimizer.learning_rate = 1e-3
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(configuration.ConfigError, match="config.optimizer.learning_rate: 2e-05 there, 0.001 here"):
        configuration.claim_workdir(tmp_path, config)
    assert (tmp_path / "config.json").read_text() == before


def test_a_broken_config_file_in_a_workdir_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(configuration.ConfigError, match="config.json is not readable JSON"):
        configuration.claim_workdir(tmp_path, load("s4"))


def test_published_hyperparameters():
    """Facts: AdamW 2e-5, decay 0.01; 30 / 60 / 30 epochs; backbone frozen for 5 / 10 / 0; batches of 2 / 2 / 4."""
    for task, epochs, frozen, batch in (("s4", 30, 5, 2), ("ms3", 60, 10, 2), ("avss", 30, 0, 4)):
        config = load(task)
        assert (config.train.epochs, config.optimizer.freeze.backbone, config.train.batch_size) == (
            epochs,
            frozen,
            batch,
        )
        assert (config.optimizer.name, config.optimizer.learning_rate) == ("adamw", 2e-5)
        assert config.optimizer.weight_decay == 0.01
        assert config.loss.mix_weight == 0.1


def test_parse_argument_keeps_defaults():
    assert base.parse_argument("", "resnet50", 96) == ("resnet50", 96)
