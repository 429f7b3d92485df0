"""Published files of backbones alone: the naming that a file follows, and the table of its entries."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Mapping

import numpy as np

from avs_jax import backbones as modules
from avs_jax.convert.rules import ConversionError, Rule, Table
from avs_jax.convert.tables.parts import Entries, dead, linear
from avs_jax.convert.tables.publishers import Naming, namings


def naming_of(names: Container[str], config_backbone) -> Naming:
    """The naming that a file's entries follow.

    Raises:
      ConversionError: they follow none that is known for this backbone; the message lists those that are.
    """
    known = namings(config_backbone)
    for naming in known:
        if naming.sign in names:
            return naming
    signs = "\n".join(f"  {naming.publisher}: {naming.sign}" for naming in known)
    raise ConversionError(
        f"the state dict is no known file of model.backbone.name {config_backbone.name!r}: it has none of the entries "
        f"that tell the publishers apart\n{signs}"
    )


def naming_by(publisher: str, config_backbone) -> Naming:
    """The naming of a publisher, for the backbone's flavour where it has one.

    Raises:
      ConversionError: the publisher is not known for this backbone.
    """
    flavour = getattr(config_backbone, "flavour", "")
    known = [n for n in namings(config_backbone) if n.flavour in ("", flavour)]
    for naming in known:
        if naming.publisher == publisher:
            return naming
    raise ConversionError(
        f"{publisher!r} does not publish {config_backbone.name}; known are {', '.join(n.publisher for n in known)}"
    )


def table(naming: Naming, config_backbone, found: Mapping[str, np.ndarray]) -> Table:
    """The entries of a file of this naming.

    `found` is the file, or the entries of it that a backbone does not use: it decides the classifier's classes, and
    which of the entries that only some files have are in the table.
    """
    width = modules.channels(config_backbone)[-1]
    entries = [dataclasses.replace(e, source=naming.rename(e.source)) for e in naming.entries(config_backbone)]
    entries = [e for e in entries if isinstance(e, Rule) or e.required or e.source in found]
    return entries + _classifier(naming.classifier, width, found)


def join(naming: Naming, state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Puts the pieces together that the publisher splits; incomplete ones stay as they are."""
    joined = dict(state_dict)
    for name in state_dict:
        pieces = _pieces(naming, name.replace(naming.split[0], naming.joint)) if naming.split else ()
        if name in pieces and len({np.shape(state_dict.get(piece)) for piece in pieces}) == 1:
            joined[name.replace(naming.split[0], naming.joint)] = np.concatenate([joined.pop(p) for p in pieces])
    return joined


def take_apart(naming: Naming, state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of `join`."""
    apart = {}
    for name, array in state_dict.items():
        pieces = _pieces(naming, name)
        apart |= zip(pieces, np.split(array, len(pieces)), strict=True) if pieces else {name: array}
    return apart


def _pieces(naming: Naming, name: str) -> tuple[str, ...]:
    """The publisher's names for an entry that it splits; none where it does not."""
    is_split = naming.joint and naming.joint in name
    return tuple(name.replace(naming.joint, piece) for piece in naming.split) if is_split else ()


def _classifier(module: str, width: int, found: Mapping[str, np.ndarray]) -> Entries:
    """The last layer, of any number of classes, where the file has one."""
    bias = f"{module}.bias"
    return dead(linear(module, module, width, np.size(found[bias]))) if bias in found else []
