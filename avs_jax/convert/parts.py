"""Converts a file of the whole model, or of its image backbone, or of VGGish, both ways, with a report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from avs_jax import convert
from avs_jax.convert import report, rules, tables
from avs_jax.convert.tables import public

PARTS = ("model", "backbone", "vggish")


@dataclasses.dataclass(frozen=True)
class Conversion:
    """Weights in both forms.

    Attributes:
      variables: ours, from the model's top: {"params": {"backbone": ...}, "batch_stats": ..., "dead": ...}.
      state_dict: PyTorch's, as it was read, or made of ours.
      rows: what became of every tensor; the paths start at the part.
    """

    variables: dict
    state_dict: dict[str, np.ndarray]
    rows: list[report.Row]


def convert_part(found: Mapping[str, np.ndarray], config_model, part: str, publisher: str | None = None) -> Conversion:
    """Converts what `avs_jax.convert.read` found, under PyTorch's names or ours.

    Args:
      found: the file; one of a whole model serves for a part of it, too.
      config_model: `config.model`.
      part: of PARTS, what is wanted.
      publisher: for a backbone under our names: whose names its state dict gets.

    Raises:
      ConversionError: it does not fit; the message lists everything.
    """
    if part == "model":
        variables = convert.from_torch(found, config_model)
        state_dict = convert.to_torch(variables, config_model) if rules.is_flat(found) else dict(found)
        return Conversion(variables, state_dict, report.rows(state_dict, tables.model(config_model)))
    found = part_of(found, part)
    settings = config_model[part]
    if part == "vggish":
        variables, state_dict = _vggish(found, settings)
        rows = report.rows(state_dict, tables.vggish(settings, state_dict))
    else:
        variables, state_dict, naming = _backbone(found, settings, publisher)
        joined = public.join(naming, state_dict)
        rows = report.rows(joined, public.table(naming, settings, joined))
    return Conversion(under(part, variables), state_dict, rows)


def part_of(found: Mapping[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    """The arrays of one part, named as if there were no other; a file of nothing else is returned as it is."""
    if not rules.is_flat(found):
        inside = {name.removeprefix(f"{part}."): a for name, a in found.items() if name.startswith(f"{part}.")}
        return inside or dict(found)
    variables = rules.unflat(found)
    if part not in variables["params"]:
        raise rules.ConversionError(f"the checkpoint has no part {part!r}, but {', '.join(variables['params'])}")
    dead = variables[rules.DEAD]
    if len(variables["params"]) > 1:
        dead = {name.removeprefix(f"{part}."): a for name, a in dead.items() if name.startswith(f"{part}.")}
    trees = {name: variables[name].get(part, {}) for name in rules.COLLECTIONS}
    return rules.flat(trees | {rules.DEAD: dead})


def _vggish(found: Mapping[str, np.ndarray], settings) -> tuple[dict, dict[str, np.ndarray]]:
    if rules.is_flat(found):
        variables = rules.unflat(found)
        return variables, rules.to_torch(variables, tables.vggish(settings))
    return convert.vggish_from_torch(found, settings), dict(found)


def _backbone(
    found: Mapping[str, np.ndarray], settings, publisher: str | None
) -> tuple[dict, dict[str, np.ndarray], public.Naming]:
    if not rules.is_flat(found):
        return convert.backbone_from_torch(found, settings), dict(found), public.naming_of(found, settings)
    if not publisher:
        known = ", ".join(sorted({naming.publisher for naming in public.namings(settings)}))
        raise rules.ConversionError(f"say whose names the backbone shall have: --publisher, one of {known}")
    naming, variables = public.naming_by(publisher, settings), rules.unflat(found)
    theirs = {entry.source for entry in public.table(naming, settings, variables[rules.DEAD])}
    dead = {name: array for name, array in variables[rules.DEAD].items() if name in theirs}  # other publishers' not
    state_dict = convert.backbone_to_torch(variables | {rules.DEAD: dead}, settings, publisher)
    return variables, state_dict, naming


def under(part: str, variables: Mapping) -> dict:
    """Variables of a part as those of a model that has nothing else."""
    trees = {name: {part: variables[name]} for name in rules.COLLECTIONS if variables.get(name)}
    return trees | {rules.DEAD: variables.get(rules.DEAD, {})}
