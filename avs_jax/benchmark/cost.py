"""What a program has to compute: FLOPs and bytes of its matrix products and convolutions, from its jaxpr.

XLA's own cost analysis counts the body of a loop once, however often it runs; this count multiplies it out.
Elementwise work is not counted, as in PyTorch's FlopCounterMode.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn


class Cost(NamedTuple):
    """FLOPs (two for each multiply and add) and the bytes that the products read and write."""

    flops: float = 0.0
    bytes: float = 0.0

    def plus(self, other: Cost, times: float = 1.0) -> Cost:
        return Cost(self.flops + times * other.flops, self.bytes + times * other.bytes)


def of(function: Callable, *arguments: Any) -> Cost:
    """Counts a function of arrays, or of `jax.ShapeDtypeStruct`s: nothing is run.

    A conditional counts as its dearest branch, a loop of unknown length as one round.
    """
    return of_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr)


def of_jaxpr(jaxpr: Jaxpr) -> Cost:
    """Counts a jaxpr with all that it calls."""
    total = Cost()
    for equation in jaxpr.eqns:
        match equation.primitive.name:
            case "dot_general":
                total = total.plus(Cost(_dot_flops(equation), _bytes(equation)))
            case "conv_general_dilated":
                total = total.plus(Cost(_conv_flops(equation), _bytes(equation)))
            case "scan":
                total = total.plus(of_jaxpr(equation.params["jaxpr"].jaxpr), equation.params["length"])
            case "cond":
                branches = [of_jaxpr(branch.jaxpr) for branch in equation.params["branches"]]
                total = total.plus(max(branches))
            case _:
                for inner in _called(equation):
                    total = total.plus(of_jaxpr(inner))
    return total


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
