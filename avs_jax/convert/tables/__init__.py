"""The tables of rules: every entry of a published state dict, generated from the model's configuration."""

from __future__ import annotations

from collections.abc import Iterable

from avs_jax.convert.rules import Table
from avs_jax.convert.tables import avsegformer, backbones, tpavi, vct

_MODELS = {"avsegformer": avsegformer.entries, "tpavi": tpavi.entries, "vct": vct.entries}
_KEPT_APART = {"tpavi": ("vggish",)}


def model(config_model) -> Table:
    """The table of a whole model."""
    if config_model.name not in _MODELS:
        raise ValueError(f"model.name is {config_model.name!r}; weights are converted for {', '.join(_MODELS)}")
    return _MODELS[config_model.name](config_model)


def kept_apart(config_model) -> tuple[str, ...]:
    """The top-level parts of our model that its authors do not keep in the model's file."""
    return _KEPT_APART.get(config_model.name, ())


def vggish(config_vggish, found: Iterable[str] = ()) -> Table:
    """The table of VGGish alone: PyTorch's, or TensorFlow's where the names in a file are those."""
    first = next((name for name in found if name.startswith("vggish/")), "")
    if first:
        return backbones.vggish_tensorflow(config_vggish, ":0" if first.endswith(":0") else "")
    return backbones.vggish(config_vggish, "", "")
