"""One element of a batch, or one head, at a time: what a CPU likes, whose cache then holds all that lies between."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def one_by_one(function: Callable[..., jax.Array], shared: Any, each: Any, constants: Any = None) -> jax.Array:
    """Stacks function(shared, x, constant) of every x and constant along the first axis of `each` and `constants`.

    The backward pass keeps the arguments alone, whatever the rematerialisation around it, and calls `function` again.

    Args:
      function: of `shared`, one of `each` and one of `constants`; it closes over no arrays.
      shared, each: trees of arrays, which get gradients.
      constants: a tree of arrays which get none.
    """
    return jax.lax.map(lambda one: function(shared, *one), (each, constants))


def _forward(function: Callable[..., jax.Array], shared: Any, each: Any, constants: Any):
    return one_by_one(function, shared, each, constants), (shared, each, constants)


def _backward(function: Callable[..., jax.Array], saved, gradient: jax.Array):
    shared, each, constants = saved

    def body(total: Any, inputs):
        one, constant, gradient = inputs
        of_shared, of_one = jax.vjp(lambda *x: function(*x, constant), shared, one)[1](gradient)
        return jax.tree.map(jnp.add, total, of_shared), of_one

    of_shared, of_each = jax.lax.scan(body, jax.tree.map(jnp.zeros_like, shared), (each, constants, gradient))
    return of_shared, of_each, None


one_by_one.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def head_by_head(
    function: Callable[..., jax.Array], heads: int, arrays: Sequence[jax.Array], constants: Sequence[jax.Array] = ()
) -> jax.Array:
    """function(*arrays, *constants) of every frame and head apart. Its backward pass keeps the arguments alone.

    Heads are read and written in their places, which on a CPU costs a fraction of what moving them to the front does.

    Args:
      function: of one head's part of each array, (L, k), to (Q, d); it closes over no arrays.
      arrays: each (N, L, heads k), of L and k of its own; they get gradients.
      constants: the same, but for the gradients.

    Returns:
      (N, Q, heads d).
    """
    return _each_head(function, heads, (*arrays, *constants))


def _each_head(function: Callable[..., Any], heads: int, arrays: Sequence[jax.Array]) -> Any:
    def of_frame(frame: Sequence[jax.Array]) -> Any:
        def of_head(head: jax.Array) -> Any:
            def part(x: jax.Array) -> jax.Array:
                width = x.shape[1] // heads
                return jax.lax.dynamic_slice_in_dim(x, head * width, width, 1)

            return function(*map(part, frame))

        def write(whole: jax.Array, part: jax.Array, head: jax.Array) -> jax.Array:
            return jax.lax.dynamic_update_slice_in_dim(whole, part, head * part.shape[1], 1)

        def body(filled: Any, head: jax.Array):
            return jax.tree.map(functools.partial(write, head=head), filled, of_head(head)), None

        part = jax.eval_shape(of_head, jax.ShapeDtypeStruct((), jnp.int32))
        empty = jax.tree.map(lambda x: jnp.zeros((x.shape[0], heads * x.shape[1]), x.dtype), part)
        return jax.lax.scan(body, empty, jnp.arange(heads, dtype=jnp.int32))[0]

    return jax.lax.map(of_frame, tuple(arrays))


def _heads_forward(function: Callable[..., jax.Array], heads: int, arrays, constants):
    return head_by_head(function, heads, arrays, constants), (arrays, constants)


def _heads_backward(function: Callable[..., jax.Array], heads: int, saved, gradient: jax.Array):
    arrays, constants = saved

    def gradients(*parts: jax.Array):
        given, fixed, gradient = parts[: len(arrays)], parts[len(arrays) : -1], parts[-1]
        return jax.vjp(lambda *given: function(*given, *fixed), *given)[1](gradient)

    return tuple(_each_head(gradients, heads, (*arrays, *constants, gradient))), None


head_by_head.defvjp(_heads_forward, _heads_backward)
