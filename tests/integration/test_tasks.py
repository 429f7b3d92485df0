"""Every task from raw files to results, and a proof that no configuration key is there for nothing."""

import json
import pathlib

import pytest
from ml_collections import ConfigDict
from PIL import Image

from avs_jax import backbones
from avs_jax import config as configuration
from avs_jax.train import demo_data, loop
from configs import base
from data_pipeline import avsbench, synthetic
from tests.integration import tiny, tiny_vct

RUNS = ("s4", "ms3", "avss", "vct")
SETTINGS = ("model", "data", "optimizer", "train", "checkpoint", "eval")


def tiny_task(task, records):
    """The tiny configuration for a task: published keys and loss, small sizes."""
    config, small = base.get_config(task, "resnet50", 64).unlock(), tiny.get_config()
    classes, protocols, best = config.model.num_classes, config.eval.protocols, config.checkpoint.best_metric
    for name in SETTINGS:
        config[name].update(small[name])
    config.model.num_classes, config.data.num_frames = classes, 10 if task == "avss" else 5
    config.eval.protocols, config.checkpoint.best_metric = protocols, best
    config.data.records = str(records)
    config.data.synthetic.update(train=6, val=3, test=3)
    config.train.update(batch_size=2, steps=2, supervised_frames_only=False)
    if task == "ms3":  # in epochs of three steps, where the others count steps
        config.train.update(steps=0, epochs=0.67)
        for section in (config.eval, config.checkpoint):
            section.update(every_steps=0, every_epochs=0.67)
    if task == "avss":  # the other kind of backbone
        config.model.backbone.update(name="pvt_v2_b0", widths=(8, 8, 20, 16))
        config.train.supervised_frames_only = True
    return config


def segmented_vct(records):
    """VCT on S4 at the smallest sizes, with pre-segmented images and its augmentations."""
    config = tiny_vct.get_config().unlock()
    config.data.records, config.model.pre_masks = str(records), True
    config.data.update(scales=(0.5, 1.0, 1.5), colour=True)
    config.data.synthetic.update(train=6, val=3, test=3)
    config.train.update(batch_size=2, steps=2)
    config.optimizer.backbone_multiplier = 0.1
    add_pre_masks(config)
    return config


def add_pre_masks(config):
    """Puts pre-segmented images beside the synthetic raw data that the run will convert: frames in four colours."""
    wanted, raw = config.data.synthetic, pathlib.Path(config.data.records) / "raw_s4"
    clips = {split: wanted[split] for split in ("train", "val", "test")}
    synthetic.write("s4", raw, clips, tuple(config.data.image_size), wanted.seed)
    for sample in avsbench.find("s4", raw):
        for frame in sample.frames:
            inside = frame.relative_to(raw / "s4_data/visual_frames")
            path = (raw / "s4_data/pre_SAM_mask" / inside).with_name(f"{frame.stem}_mask_color.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.open(frame).quantize(4).convert("RGB").save(path)


@pytest.fixture(scope="module")
def read_keys(tmp_path_factory):
    """{task: (config, keys that a run read, workdir)}: one short run of each task, every access recorded."""
    found = {}
    for task in RUNS:
        records = tmp_path_factory.mktemp(f"{task}_records")
        config = segmented_vct(records) if task == "vct" else tiny_task(task, records)
        configuration.validate(config)
        workdir = tmp_path_factory.mktemp(task)
        configuration.claim_workdir(workdir, config)  # reads everything, so before recording starts
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(configuration, "claim_workdir", lambda *_, **__: None)
            seen = record(patch, config)
            demo_data.ensure_records(config)
            assert loop.train(config, workdir)
        found[task] = (config, seen, workdir)
    return found


def record(patch, config):
    """Returns the set that collects the dotted names of the keys read from `config` from now on."""
    names, seen = {}, set()

    def name_all(node, prefix):
        names[id(node)] = prefix
        for key, value in node.items():
            if isinstance(value, ConfigDict):
                name_all(value, f"{prefix}{key}.")

    name_all(config, "")
    original = ConfigDict.__getitem__

    def getitem(self, key):
        if id(self) in names:
            seen.add(f"{names[id(self)]}{key}")
        return original(self, key)

    patch.setattr(ConfigDict, "__getitem__", getitem)
    return seen


@pytest.mark.parametrize("task", RUNS)
def test_a_task_runs_from_raw_files_to_results(read_keys, task):
    _, _, workdir = read_keys[task]
    results = json.loads((workdir / "results.json").read_text())
    protocol = {"avss": "avss", "vct": "vct"}.get(task, "avsbench")
    assert set(results["true"]) == {"clip", protocol, "dataset"}
    assert results["step"] == 2
    assert all(0 <= value <= 1 for value in results["true"][protocol].values())
    pictures = {"best_1", "worst_1"} | ({"best_1_queries", "worst_1_queries"} if task == "vct" else set())
    assert {path.stem for path in (workdir / "pictures").iterdir()} == pictures


def test_every_configuration_key_is_read(read_keys):
    keys = set().union(*(configuration.flat(config) for config, _, _ in read_keys.values()))
    read = set().union(*(seen for _, seen, _ in read_keys.values()))
    of_a_swin = base.get_config("s4", "swin_t,64")
    with pytest.MonkeyPatch.context() as patch:
        seen = record(patch, of_a_swin)
        backbones.create(of_a_swin.model.backbone)
    assert keys - read - seen == set()
