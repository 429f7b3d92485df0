"""Weights to start from: the authors' files, ImageNet backbones, VGGish."""

from __future__ import annotations

import logging

import jax

from avs_jax import convert
from avs_jax.train.state import TrainState

log = logging.getLogger(__name__)


def initialise(state: TrainState, config) -> TrainState:
    """Returns `state` with the weights of `config.init_from`; logs what starts from where and what from scratch.

    `init_from.model` replaces everything, `init_from.backbone` and `init_from.vggish` then their part.

    Raises:
      convert.ConversionError: a file does not fit the model; the message lists every array that does not.
      FileNotFoundError: a file is not there.
    """
    files, found = config.init_from, {}
    if files.model:
        found = convert.from_torch(convert.read(files.model), config.model)
        found = {"params": dict(found["params"]), "batch_stats": dict(found["batch_stats"])}
    origin = {part: files.model for part in found.get("params", {})}
    for part, convert_part, settings in (
        ("backbone", convert.backbone_from_torch, config.model.backbone),
        ("vggish", convert.vggish_from_torch, config.model.vggish),
    ):
        if files[part]:
            variables = convert_part(convert.read(files[part]), settings)
            for name in ("params", "batch_stats"):
                if variables.get(name):
                    found.setdefault(name, {})[part] = variables[name]
            origin[part] = files[part]
    for part in state.params:
        log.info("%s: %s", part, f"weights of {origin[part]}" if part in origin else "from scratch")
    params = _replace(state.params, found.get("params", {}))
    statistics = state.model_state.get("batch_stats", {})
    return state.replace(
        params=params,
        ema_params=jax.tree.map(lambda x: x.copy(), params) if state.ema_params else {},
        model_state={"batch_stats": _replace(statistics, found.get("batch_stats", {}))} if statistics else {},
    )


def _replace(tree: dict, parts: dict) -> dict:
    """Puts host arrays in place of the parts of `tree`, with its layouts over devices."""
    new = {
        part: jax.tree.map(lambda old, value: jax.device_put(value, old.sharding), tree[part], value)
        for part, value in parts.items()
    }
    return {**tree, **new}
