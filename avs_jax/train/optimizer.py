"""Optimizers as published: AdamW (AVSegFormer, VCT) or Adam (TPAVI), with parts of a model that start later."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from avs_jax.compiler import by_platform
from avs_jax.train.parameter_groups import ParameterGroup, parameter_group


def schedule(config, total_steps: int) -> optax.Schedule:
    """Returns the learning rate as a function of the step; `config` is `config.optimizer`."""
    rate, warmup = config.learning_rate, config.warmup_steps
    rest = max(1, total_steps - warmup)
    main = {
        "constant": lambda: optax.constant_schedule(rate),
        "cosine": lambda: optax.cosine_decay_schedule(rate, rest),
        "poly": lambda: optax.polynomial_schedule(rate, 0.0, 0.9, rest),
    }[config.schedule]()
    if not warmup:
        return main
    return optax.join_schedules([optax.linear_schedule(0.0, rate, warmup), main], [warmup])


def create(
    config, total_steps: int, unfreeze_at: Mapping[str, int], never: tuple[str, ...] = ()
) -> optax.GradientTransformation:
    """Builds the optimizer of `config.optimizer`.

    A part (a top-level name of the parameter tree) of `unfreeze_at` is left alone before that step: no update, no
    weight decay, no moments, so that its bias correction starts then, as PyTorch's does for parameters without a
    gradient. A part of `never` has no optimizer state at all.

    `update` may be told whether the step is `healthy`; what it then gives for the state goes to `keep_healthy`.
    """
    inner = {"train": _direction(config), "never": optax.set_to_zero()}
    for part, step in unfreeze_at.items():
        inner[part] = optax.conditionally_mask(_direction(config), lambda now, step=step: now >= step)

    def labels(params):
        named = {part: _label(part, unfreeze_at, never) for part in params}
        return {part: jax.tree.map(lambda _, part=part: named[part], tree) for part, tree in params.items()}

    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm > 0 else []
    slow = [_slow_backbones(config.backbone_multiplier)] if config.backbone_multiplier != 1 else []
    rate = optax.scale_by_learning_rate(schedule(config, total_steps))
    return optax.chain(*clip, optax.partition(inner, labels), *slow, rate)


def never_trained(config_model) -> tuple[str, ...]:
    """Returns the parts of the model that are never trained."""
    return ("vggish",) if config_model.vggish.frozen else ()


def frozen_parts(step: int, unfreeze_at: Mapping[str, int], never: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the parts that are not trained at `step`, for which no gradient need be computed."""
    return tuple(sorted({*never, *(part for part, start in unfreeze_at.items() if step < start)}))


def next_change(step: int, unfreeze_at: Mapping[str, int]) -> float:
    """Returns the first step after `step` at which `frozen_parts` changes, or infinity."""
    return min((start for start in unfreeze_at.values() if start > step), default=math.inf)


class AdamState(NamedTuple):
    """Like optax's, of an `update` that leaves it as it was where a step is not healthy."""

    count: jax.Array
    mu: optax.Updates
    nu: optax.Updates


def keep_healthy(healthy: jax.Array, new: optax.OptState, old: optax.OptState) -> optax.OptState:
    """Returns the `new` state if `healthy`, else the `old`; `new` is of an `update` which was told the same."""

    def select(new, old):  # Adam's own is selected already
        return new if isinstance(new, AdamState) else jnp.where(healthy, new, old)

    return jax.tree.map(select, new, old, is_leaf=lambda x: isinstance(x, AdamState))


def _label(part: str, unfreeze_at: Mapping[str, int], never: tuple[str, ...]) -> str:
    if part in never:
        return "never"
    return part if unfreeze_at.get(part, 0) > 0 else "train"


def _direction(config) -> optax.GradientTransformation:
    """The step before it is scaled by the learning rate; weight decay is decoupled, and falls on what `decay` says."""
    if config.name == "sgd":
        return optax.identity()
    beta1, beta2 = config.betas
    adam = _adam(beta1, beta2, config.eps)
    if config.name == "adam":
        return adam
    mask = None if config.decay == "all" else functools.partial(jax.tree_util.tree_map_with_path, _decays)
    return optax.chain(adam, optax.add_decayed_weights(config.weight_decay, mask))


def _adam(beta1: float, beta2: float, eps: float) -> optax.GradientTransformationExtraArgs:
    """`optax.scale_by_adam`, told whether the step is `healthy`: otherwise the state stays what it is.

    On a CPU the moments change in their place, in a loop that runs once or not at all: XLA would else compute new
    moments anew wherever they are used, for which it holds the old ones, copied, from the beginning of the step.
    """

    def init(params):
        return AdamState(*optax.scale_by_adam(beta1, beta2, eps).init(params))

    # Jitted, these are traced once for all parameters of a shape.
    first = jax.jit(lambda gradient, mu: optax.tree.update_moment(gradient, mu, beta1, 1))
    second = jax.jit(lambda gradient, nu: optax.tree.update_moment(gradient, nu, beta2, 2))

    @jax.jit
    def direction(count, mu, nu):
        mu, nu = optax.tree.bias_correction(mu, beta1, count), optax.tree.bias_correction(nu, beta2, count)
        return mu / (jnp.sqrt(nu) + eps)

    def moments(grads, mu, nu):
        return jax.tree.map(first, grads, mu), jax.tree.map(second, grads, nu)

    def in_place(healthy, grads, *old):
        def body(turn, old):
            now, _ = jax.lax.optimization_barrier((grads, turn))  # else squares are made, and held, before the loop
            return moments(now, *old)

        return jax.lax.fori_loop(0, healthy.astype(jnp.int32), body, old)

    def selected(healthy, grads, *old):
        return jax.tree.map(functools.partial(jnp.where, healthy), moments(grads, *old), old)

    def update(grads, state, params=None, *, healthy=True, **_):
        healthy = jnp.asarray(healthy)
        count = jnp.where(healthy, optax.safe_increment(state.count), state.count)
        mu, nu = by_platform(healthy, grads, state.mu, state.nu, cpu=in_place, default=selected)
        updates = jax.tree.map(functools.partial(direction, count), mu, nu)
        return updates, AdamState(count, mu, nu)

    return optax.GradientTransformationExtraArgs(init, update)


def _decays(path: tuple, leaf: jax.Array) -> bool:
    return _group(path).decay


def _slow_backbones(multiplier: float) -> optax.GradientTransformation:
    """Scales the updates of the image backbones."""

    def scale(path: tuple, update: jax.Array) -> jax.Array:
        return update * multiplier if _group(path).backbone else update

    return optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(scale, updates))


def _group(path: tuple) -> ParameterGroup:
    return parameter_group(tuple(entry.key for entry in path))
