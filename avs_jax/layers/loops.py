"""One element of a batch at a time: what a CPU likes, whose cache then holds all that lies between."""

from __future__ import annotations

import functools
from collections.abc import Callable
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
