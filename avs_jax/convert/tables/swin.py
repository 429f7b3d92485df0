"""Tables of Swin under the names of its authors (github microsoft/Swin-Transformer), which Mask2Former and VCT kept."""

from __future__ import annotations

import dataclasses
import functools
import math

from avs_jax.backbones import swin
from avs_jax.convert.rules import Dead, Rule, stacked_linears, stacked_vectors
from avs_jax.convert.tables.parts import Entries, conv, linear, norm, weight

PROJECTIONS = ("query", "key", "value")
INDEX = "relative_position_index"


def entries(config, source: str, target: str) -> Entries:
    """Every entry, with the output norms of the configuration's flavour."""
    flavour = swin.architecture(config).flavour
    norms = output_norms if flavour == "detection" else last_norm
    return body(config, source, target) + norms(config, source, target)


def body(config, source: str, target: str) -> Entries:
    """All but the output norms."""
    stages = swin.architecture(config)
    table = conv(f"{source}patch_embed.proj", f"{target}patch_embed/proj", 3, stages.widths[0], swin.PATCH)
    table += norm(f"{source}patch_embed.norm", f"{target}patch_embed/norm", stages.widths[0])
    for i, (width, depth) in enumerate(zip(stages.widths, stages.depths, strict=True)):
        for block in range(depth):
            name = "shifted" if block % 2 else "plain"
            theirs, ours = f"{source}layers.{i}.blocks.{block}", f"{target}stage{i + 1}/{name}"
            table += _block(stages, i, block // 2, theirs, ours)
        if i < 3:
            theirs, ours = f"{source}layers.{i}.downsample", f"{target}merge{i + 1}"
            table += norm(f"{theirs}.norm", f"{ours}/norm", 4 * width)
            table += linear(f"{theirs}.reduction", f"{ours}/reduction", 4 * width, stages.widths[i + 1], bias=False)
    return table


def output_norms(config, source: str, target: str) -> Entries:
    """The norm of each of the four maps: the detection flavour."""
    widths = swin.architecture(config).widths
    return [e for i, width in enumerate(widths) for e in norm(f"{source}norm{i}", f"{target}norm{i + 1}", width)]


def last_norm(config, source: str, target: str) -> Entries:
    """The norm of the last map: the classification flavour."""
    return norm(f"{source}norm", f"{target}norm", swin.architecture(config).widths[-1])


def shift_masks(config) -> Entries:
    """The attention masks that the authors' classifiers keep: of images that are eight windows wide at stage 1."""
    stages = swin.architecture(config)
    tokens = stages.window**2
    return [
        Dead(f"layers.{i}.blocks.{block}.attn_mask", (4 ** (3 - i), tokens, tokens), required=False)
        for i in range(3)
        for block in range(1, stages.depths[i], 2)
    ]


def flat_index(entry: Rule | Dead) -> Rule | Dead:
    """The same entry; an index into the table of biases as torchvision keeps it, in one row."""
    if not entry.source.endswith(INDEX):
        return entry
    return dataclasses.replace(entry, shape=(math.prod(entry.shape),), value=lambda: entry.value().ravel())


def _block(stages: swin.Architecture, i: int, pair: int, source: str, target: str) -> Entries:
    width, hidden = stages.widths[i], swin.MLP_RATIO * stages.widths[i]
    table = norm(f"{source}.norm1", f"{target}/norm1", width, pair)
    table += _attention_inputs(f"{source}.attn", f"{target}/attn", width, pair)
    table += _position_bias(f"{source}.attn", f"{target}/attn", stages.window, stages.heads[i], pair)
    table += linear(f"{source}.attn.proj", f"{target}/attn/proj", width, width, block=pair)
    table += norm(f"{source}.norm2", f"{target}/norm2", width, pair)
    table += linear(f"{source}.mlp.fc1", f"{target}/fc1", width, hidden, block=pair)
    return table + linear(f"{source}.mlp.fc2", f"{target}/fc2", hidden, width, block=pair)


def _attention_inputs(source: str, target: str, width: int, pair: int) -> Entries:
    kernels = tuple(f"params/{target}/{p}/kernel" for p in PROJECTIONS)
    biases = tuple(f"params/{target}/{p}/bias" for p in PROJECTIONS)
    return [
        Rule(f"{source}.qkv.weight", (3 * width, width), kernels, stacked_linears(3), pair),
        Rule(f"{source}.qkv.bias", (3 * width,), biases, stacked_vectors(3), pair),
    ]


def _position_bias(source: str, target: str, window: int, heads: int, pair: int) -> Entries:
    """The table of biases, and the index into it, which follows from the window; timm's files lack the index."""
    table, index = f"{source}.relative_position_bias_table", f"{source}.{INDEX}"
    make = functools.partial(swin.relative_position_index, window)
    return [
        weight(table, ((2 * window - 1) ** 2, heads), f"{target}/relative_position_bias", block=pair),
        Dead(index, (window**2, window**2), dtype="int64", required=False, value=make),
    ]
