"""Which parameters are trained at which rate, and which decay: VCT's groups, by a parameter's path in our tree."""

from __future__ import annotations

from typing import NamedTuple

EMBEDDINGS = ("query_features", "query_positions", "prototypes")  # tables that are looked up or added
POSITION_BIAS = "relative_position_bias"


class ParameterGroup(NamedTuple):
    """How a parameter is trained."""

    backbone: bool  # at the backbones' learning rate: theirs is multiplied by `config.optimizer.backbone_multiplier`
    decay: bool  # weight decay falls on it


def parameter_group(path: tuple[str, ...]) -> ParameterGroup:
    """The group of the parameter at `path`, for example ("backbone", "stage1", "plain", "norm1", "scale").

    Weights of norms, embeddings and biases of relative positions do not decay; everything else does, biases among it.
    """
    *parents, leaf = path
    embedding = leaf in EMBEDDINGS or path[:2] == ("decoder", "level_embed")  # the pixel decoder's decays, as published
    return ParameterGroup(
        backbone="backbone" in path[0],
        decay=not (is_norm(parents[-1]) or embedding or leaf == POSITION_BIAS),
    )


def is_norm(module: str) -> bool:
    """Whether a module of that name normalises."""
    return "norm" in module or module.startswith("bn") or module.endswith("_bn")
