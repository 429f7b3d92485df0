"""Every task from raw files to results, and a proof that no configuration key is there for nothing."""

import json

import pytest
from ml_collections import ConfigDict

from avs_jax import backbones
from avs_jax import config as configuration
from avs_jax.train import demo_data, loop
from configs import base
from tests.integration import tiny

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
    return config


@pytest.fixture(scope="module")
def read_keys(tmp_path_factory):
    """{task: (config, keys that a run read, workdir)}: one short run of each task, every access recorded."""
    found = {}
    for task in ("s4", "ms3", "avss"):
        config = tiny_task(task, tmp_path_factory.mktemp(f"{task}_records"))
        configuration.validate(config)
        workdir = tmp_path_factory.mktemp(task)
        configuration.claim_workdir(workdir, config)  # reads everything, so before recording starts
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(configuration, "claim_workdir", lambda *_: None)
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


@pytest.mark.parametrize("task", ["s4", "ms3", "avss"])
def test_a_task_runs_from_raw_files_to_results(read_keys, task):
    _, _, workdir = read_keys[task]
    results = json.loads((workdir / "results.json").read_text())
    protocol = "avss" if task == "avss" else "avsbench"
    assert set(results["true"]) == {"clip", protocol, "dataset"}
    assert results["step"] == 2
    assert all(0 <= value <= 1 for value in results["true"][protocol].values())


def test_every_configuration_key_is_read(read_keys):
    config = read_keys["s4"][0]
    read = set().union(*(seen for _, seen, _ in read_keys.values()))
    of_a_swin = base.get_config("s4", "swin_t,64")
    with pytest.MonkeyPatch.context() as patch:
        seen = record(patch, of_a_swin)
        backbones.create(of_a_swin.model.backbone)
    assert set(configuration.flat(config)) - read - seen == set()
