"""The order of a backward pass on a CPU: gradients of weights first.

Nothing but the update reads a weight's gradient, so XLA's CPU backend computes it when all else is done, and holds what
it is made of until then: every activation of a head, through the backward pass of a whole backbone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from avs_jax.compiler import by_platform


def weights_first(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(weights, *inputs)`, of trees of arrays, whose inputs are given their gradients after the weights.

    It closes over no arrays, and is differentiated once, in reverse.
    """

    def backward(pullback: Callable, gradient: Any):
        return _in_order(*pullback(gradient))

    ordered = jax.custom_vjp(function)
    ordered.defvjp(lambda *arguments: jax.vjp(function, *arguments), backward)
    return ordered


def parameters_first(function: Callable[..., Any]) -> Callable[..., Any]:
    """`weights_first` of a function(module, *inputs) and the module's parameters."""

    def forward(module: nn.Module, *inputs: Any):
        return nn.vjp(function, module, *inputs)

    def backward(pullback: Callable, gradient: Any):
        return _in_order(*pullback(gradient))

    return nn.custom_vjp(function, forward, backward)


def _in_order(of_weights: Any, *of_inputs: Any):
    return of_weights, *by_platform(of_inputs, of_weights, cpu=_after, default=lambda inputs, _: inputs)


def _after(values: Any, others: Any) -> Any:
    """`values`, made to depend on `others`: by arithmetic, as XLA:CPU drops barriers before it orders operations."""
    zero = 0 * sum(x.ravel()[0] for x in jax.tree.leaves(others))
    return jax.tree.map(lambda x: x + zero.astype(x.dtype), values)
