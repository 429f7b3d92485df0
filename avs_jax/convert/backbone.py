"""Published files of backbones, to and from variables of `avs_jax.backbones`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from avs_jax.backbones import swin
from avs_jax.convert import rules
from avs_jax.convert.tables import public


def from_torch(state_dict: Mapping[str, np.ndarray], config) -> dict:
    """See `avs_jax.convert.backbone_from_torch`."""
    naming = public.naming_of(state_dict, config)
    joined = public.join(naming, state_dict)
    variables = rules.from_torch(joined, public.table(naming, config, joined))
    if naming.flavour == "classification" and config.flavour == "detection":
        variables["params"] |= _fresh_output_norms(config)
    return variables


def to_torch(variables: Mapping, config, publisher: str) -> dict[str, np.ndarray]:
    """See `avs_jax.convert.backbone_to_torch`."""
    naming = public.naming_by(publisher, config)
    table = public.table(naming, config, variables.get(rules.DEAD, {}))
    return public.take_apart(naming, rules.to_torch(variables, table))


def _fresh_output_norms(config) -> dict:
    """A detector's norms of the four maps, which a classifier's file lacks: they start as the identity."""
    widths = swin.architecture(config).widths
    return {
        f"norm{i}": {"scale": np.ones(width, np.float32), "bias": np.zeros(width, np.float32)}
        for i, width in enumerate(widths, 1)
    }
