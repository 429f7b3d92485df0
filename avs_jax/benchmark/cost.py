"""What a program has to compute: FLOPs and bytes of its matrix products and convolutions, from its jaxpr.

XLA's own cost analysis counts the body of a loop once, however often it runs; this count multiplies it out.
Elementwise work is not counted, as in PyTorch's FlopCounterMode.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from jax.interpreters.partial_eval import dce_jaxpr


class Cost(NamedTuple):
    """FLOPs (two for each multiply and add) and the bytes that the products read and write."""

    flops: float = 0.0
    bytes: float = 0.0

    def plus(self, other: Cost, times: float = 1.0) -> Cost:
        return Cost(self.flops + times * other.flops, self.bytes + times * other.bytes)


def of(function: Callable, *arguments: Any, platform: str = "") -> Cost:
    """Counts a function of arrays, or of `jax.ShapeDtypeStruct`s: nothing is run.

    What no result depends on does not count. A choice by platform counts as what `platform` ("cpu", "cuda", "tpu"; by
    default the one in use) gets, any other conditional as its dearest branch, a loop of unknown length as one round.
    """
    return of_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr, platform or jax.default_backend())


def of_jaxpr(jaxpr: Jaxpr, platform: str) -> Cost:
    """`of` what a function was traced to."""
    used, _ = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return _of_used(used, platform)


def _of_used(jaxpr: Jaxpr, platform: str) -> Cost:
    """Counts a jaxpr with all that it calls."""
    total = Cost()
    for equation in jaxpr.eqns:
        match equation.primitive.name:
            case "dot_general":
                total = total.plus(Cost(_dot_flops(equation), _bytes(equation)))
            case "conv_general_dilated":
                total = total.plus(Cost(_conv_flops(equation), _bytes(equation)))
            case "scan":
                total = total.plus(_of_used(equation.params["jaxpr"].jaxpr, platform), equation.params["length"])
            case "cond":
                total = total.plus(max(_of_used(branch.jaxpr, platform) for branch in _branches(equation, platform)))
            case _:
                for inner in _called(equation):
                    total = total.plus(_of_used(inner, platform))
    return total


def _branches(equation: JaxprEqn, platform: str) -> Sequence[ClosedJaxpr]:
    """The branches of a conditional that `platform` may take."""
    branches, platforms = equation.params["branches"], equation.params.get("branches_platforms")
    if platforms is None:
        return branches
    own = [i for i, names in enumerate(platforms) if names is not None and platform in names]
    default = [i for i, names in enumerate(platforms) if names is None]
    return [branches[i] for i in own or default]


def _dot_flops(equation: JaxprEqn) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return 2.0 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)


def _conv_flops(equation: JaxprEqn) -> float:
    _, inputs, *window = equation.params["dimension_numbers"].rhs_spec
    kernel = equation.invars[1].aval.shape
    taps = kernel[inputs] * math.prod(kernel[axis] for axis in window)
    # A dilated input, as in the gradient of a strided convolution, is zeros but for one value in `lhs_dilation`.
    return 2.0 * equation.outvars[0].aval.size * taps / math.prod(equation.params["lhs_dilation"])


def _bytes(equation: JaxprEqn) -> float:
    arrays = [variable.aval for variable in (*equation.invars, *equation.outvars)]
    return float(sum(array.size * array.dtype.itemsize for array in arrays))


def _called(equation: JaxprEqn) -> Iterator[Jaxpr]:
    for value in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, (ClosedJaxpr, Jaxpr))
