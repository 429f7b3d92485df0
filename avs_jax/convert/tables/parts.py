"""Rules of the elementary layers: where PyTorch's `weight` and `bias` lie in our modules.

`source` is PyTorch's module name, `target` our module's path; `block` is the index in a stack of blocks.
"""

from __future__ import annotations

import dataclasses

from avs_jax.convert.rules import CONV, LINEAR, POINTWISE, SAME, Dead, Layout, Rule, stacked_linears, stacked_vectors

Entries = list[Rule | Dead]


def weight(source: str, shape: tuple[int, ...], target: str, layout: Layout = SAME, block: int | None = None) -> Rule:
    """One parameter."""
    return Rule(source, shape, (f"params/{target}",), layout, block)


def linear(source: str, target: str, inputs: int, outputs: int, bias: bool = True, block: int | None = None) -> Entries:
    """A linear layer."""
    kernel = weight(f"{source}.weight", (outputs, inputs), f"{target}/kernel", LINEAR, block)
    return [kernel, *_bias(source, target, outputs, bias, block)]


def pointwise(source: str, target: str, inputs: int, outputs: int, bias: bool = True) -> Entries:
    """A 1x1 convolution that is a linear layer here."""
    kernel = weight(f"{source}.weight", (outputs, inputs, 1, 1), f"{target}/kernel", POINTWISE)
    return [kernel, *_bias(source, target, outputs, bias)]


def conv(
    source: str, target: str, inputs: int, outputs: int, size: int, bias: bool = True, block: int | None = None
) -> Entries:
    """A convolution; a depthwise one has `inputs` 1."""
    kernel = weight(f"{source}.weight", (outputs, inputs, size, size), f"{target}/kernel", CONV, block)
    return [kernel, *_bias(source, target, outputs, bias, block)]


def norm(source: str, target: str, width: int, block: int | None = None) -> Entries:
    """A layer norm or a group norm."""
    return [
        weight(f"{source}.weight", (width,), f"{target}/scale", SAME, block),
        weight(f"{source}.bias", (width,), f"{target}/bias", SAME, block),
    ]


def batch_norm(source: str, target: str, width: int) -> Entries:
    """A batch norm. PyTorch's counter of batches decides nothing; files of its first versions lack it."""
    return [
        *norm(source, target, width),
        Rule(f"{source}.running_mean", (width,), (f"batch_stats/{target}/mean",)),
        Rule(f"{source}.running_var", (width,), (f"batch_stats/{target}/var",)),
        Dead(f"{source}.num_batches_tracked", (), "batch_stats", "int64", required=False),
    ]


def attention(source: str, target: str, width: int, bias: bool) -> Entries:
    """PyTorch's multi-head attention, whose three input projections are one matrix."""
    names = [f"params/{target}/{name}" for name in ("query", "key", "value")]
    kernels = tuple(f"{name}/kernel" for name in names)
    biases = tuple(f"{name}/bias" for name in names)
    entries = [Rule(f"{source}.in_proj_weight", (3 * width, width), kernels, stacked_linears(3))]
    if bias:
        entries.append(Rule(f"{source}.in_proj_bias", (3 * width,), biases, stacked_vectors(3)))
    return entries + linear(f"{source}.out_proj", f"{target}/out", width, width, bias)


def deformable_attention(source: str, target: str, width: int, samples: int) -> Entries:
    """Multi-scale deformable attention that reads `samples` places: heads x levels x points."""
    outputs = {"sampling_offsets": 2 * samples, "attention_weights": samples, "value_proj": width, "output_proj": width}
    return [e for name, size in outputs.items() for e in linear(f"{source}.{name}", f"{target}/{name}", width, size)]


def stacked(entries: Entries, block: int) -> Entries:
    """The same entries as those of one block in a stack."""
    return [dataclasses.replace(e, block=block) if isinstance(e, Rule) else e for e in entries]


def dead(entries: Entries) -> Entries:
    """The same entries of a module that is never run."""
    return [e if isinstance(e, Dead) else Dead(e.source, e.shape, e.collection) for e in entries]


def _bias(source: str, target: str, width: int, present: bool, block: int | None = None) -> Entries:
    return [weight(f"{source}.bias", (width,), f"{target}/bias", SAME, block)] if present else []
