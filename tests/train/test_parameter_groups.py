"""VCT's parameter groups against those of the published training script, name by name."""

from __future__ import annotations

import golden
import pytest

from avs_jax.convert.rules import Rule
from avs_jax.convert.tables import vct
from avs_jax.train.parameter_groups import ParameterGroup, parameter_group
from tests.models.published_vct import published_config

GROUPS = {
    "lr=1e-05 wd=0.05": ParameterGroup(backbone=True, decay=True),
    "lr=1e-05 wd=0": ParameterGroup(backbone=True, decay=False),
    "lr=0.0001 wd=0.05": ParameterGroup(backbone=False, decay=True),
    "lr=0.0001 wd=0": ParameterGroup(backbone=False, decay=False),
}


@pytest.mark.parametrize("name", ("s4", "ms3"))
def test_groups_are_the_published_ones(name):
    groups = golden.load(f"vct/optimizer_{name}").manifest["groups"]
    published = {source: GROUPS[group] for group, names in groups.items() for source in names}
    found = {}
    for rule in vct.entries(published_config(name)):
        if isinstance(rule, Rule) and not rule.source.startswith("audio_backbone."):  # VGGish is frozen: in no group
            (found[rule.source],) = {parameter_group(tuple(path.split("/")[1:])) for path in rule.targets}
    assert found == published


def test_batch_norms_do_not_decay():
    for module in ("bn1", "shortcut_bn"):
        assert not parameter_group(("backbone", "stage1_block0", module, "scale")).decay
