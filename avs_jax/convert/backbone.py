"""Published files of backbones, to and from variables of `avs_jax.backbones`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from avs_jax.backbones import swin
from avs_jax.convert import resizing, rules
from avs_jax.convert.tables import public
from avs_jax.convert.tables.publishers import Naming


def from_torch(state_dict: Mapping[str, np.ndarray], config) -> dict:
    """See `avs_jax.convert.backbone_from_torch`."""
    naming, joined, table = _understand(state_dict, config)
    return _with_output_norms(rules.from_torch(joined, table), naming, config)


def to_start_from(state_dict: Mapping[str, np.ndarray], config) -> tuple[dict, list[str]]:
    """As `from_torch`, for a Swin's windows of any size, too; with a note on each array that was resized.

    Raises:
      ConversionError: as in `avs_jax.convert.backbone_from_torch`.
    """
    naming, joined, table = _understand(state_dict, config)
    variables, notes = resizing.from_torch(joined, table)
    return _with_output_norms(variables, naming, config), notes


def to_torch(variables: Mapping, config, publisher: str) -> dict[str, np.ndarray]:
    """See `avs_jax.convert.backbone_to_torch`."""
    naming = public.naming_by(publisher, config)
    table = public.table(naming, config, variables.get(rules.DEAD, {}))
    return public.take_apart(naming, rules.to_torch(variables, table))


def _understand(state_dict: Mapping[str, np.ndarray], config) -> tuple[Naming, dict[str, np.ndarray], rules.Table]:
    """The naming that a file follows, its entries with what the publisher splits put together, and their table."""
    naming = public.naming_of(state_dict, config)
    joined = public.join(naming, state_dict)
    return naming, joined, public.table(naming, config, joined)


def _with_output_norms(variables: dict, naming: Naming, config) -> dict:
    """Adds a detector's norms of the four maps, which a classifier's file lacks: they start as the identity."""
    if naming.flavour != "classification" or config.flavour != "detection":
        return variables
    norms = {
        f"norm{i}": {"scale": np.ones(width, np.float32), "bias": np.zeros(width, np.float32)}
        for i, width in enumerate(swin.architecture(config).widths, 1)
    }
    return variables | {"params": variables["params"] | norms}
