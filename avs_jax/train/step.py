"""One training step: the only place that takes gradients."""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from avs_jax import compiler, losses, models, parallel
from avs_jax.parallel import mesh as meshes
from avs_jax.parallel import processes
from avs_jax.train import optimizer
from avs_jax.train.state import TrainState
from data_pipeline.batch import FIELDS

log = logging.getLogger(__name__)

Batch = dict[str, jax.Array]

HEALTHY = "healthy"  # the metric that says whether a step had an effect
TOTALS = ("loss", "gradient_norm", "parameter_norm")  # the metrics that are of every model


def make_train_step(
    model: nn.Module, tx: optax.GradientTransformation, config, frozen: tuple[str, ...]
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """Returns the pure function (state, batch) -> (state, metrics) for `config`; jit it with the state donated.

    Args:
      model, tx: the model and its optimizer, of `optimizer.create` or any of optax.
      config: the whole configuration; `loss` and `train` are read.
      frozen: top-level parts of the parameters for which no gradient is computed, nor memory held.

    With `train.accumulate` = A the batch is worked off in A equal parts and the gradients are averaged. Parts are whole
    clips, or frames where the clips cannot be shared out. Batch norm sees the parts one after the other, and a loss
    that divides by a number of annotated frames does so in each part.

    A step whose loss, gradients, parameters or new batch statistics are not finite changes nothing but the step's
    number; its metric `healthy` is False.
    """

    def loss_fn(trained, fixed, model_state, batch, key):
        outputs, updated = model.apply(
            {"params": {**fixed, **trained}, **model_state},
            models.prepare(batch),
            train=True,
            rngs={"dropout": key},
            mutable=list(model_state),
        )
        total, terms = losses.total_loss(outputs, batch, config.loss, jax.random.fold_in(key, 1))
        return total, (updated, {"loss": total, **terms})

    tx = optax.with_extra_args_support(tx)
    gradient_fn = jax.grad(loss_fn, has_aux=True)
    parts = config.train.accumulate

    def gradients(trained, fixed, model_state, batch, key):
        if parts == 1:
            return gradient_fn(trained, fixed, model_state, batch, key)

        batch = batch if len(batch["frames"]) % parts == 0 else _frames_as_clips(batch)
        # Every parts-th clip, so that a part is spread over the devices as the whole batch is.
        split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)
        split = meshes.keep_split(split, axis=1)

        def body(carry, part):
            total, stats = carry
            index, clips = part
            grads, (stats, metrics) = gradient_fn(trained, fixed, stats, clips, jax.random.fold_in(key, index))
            return (jax.tree.map(jnp.add, total, parallel.in_parts(grads)), stats), metrics

        zeros = jax.tree.map(jnp.zeros_like, trained)
        (total, stats), metrics = jax.lax.scan(body, (zeros, model_state), (jnp.arange(parts), split))
        return jax.tree.map(lambda g: g / parts, total), (stats, jax.tree.map(jnp.mean, metrics))

    def train_step(state: TrainState, batch: Batch):
        key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
        whole = parallel.collected(state.params)
        fixed = {name: tree for name, tree in whole.items() if name in frozen}
        trained = {name: tree for name, tree in whole.items() if name not in frozen}
        grads, (model_state, metrics) = gradients(trained, fixed, state.model_state, batch, key)
        grads = parallel.in_parts(grads | jax.tree.map(jnp.zeros_like, fixed))
        metrics |= {"gradient_norm": _norm(grads), "parameter_norm": _norm(state.params)}
        sums = jnp.stack([_norm(model_state), *(metrics[name] for name in TOTALS)])
        healthy = jnp.all(jnp.isfinite(sums))  # not of what is new, which would be held beside the old until then
        updates, opt_state = tx.update(grads, state.opt_state, state.params, healthy=healthy)
        params = optax.apply_updates(state.params, updates)
        decay = config.train.ema_decay
        ema = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state.ema_params, params) if decay else {}
        old = state.params, state.model_state, state.ema_params
        new = jax.tree.map(functools.partial(jnp.where, healthy), (params, model_state, ema), old)
        opt_state = optimizer.keep_healthy(healthy, opt_state, state.opt_state)
        state = TrainState(state.step + 1, new[0], new[1], opt_state, new[2], state.rng)
        return state, metrics | {HEALTHY: healthy}

    return train_step


def _norm(tree: Any) -> jax.Array:
    """The L2 norm of all arrays together, as products: on a CPU, sums would take the squares from memory."""
    precise = jax.lax.Precision.HIGHEST
    squares = [jnp.einsum("...,...->", x, x, precision=precise) for x in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(squares, jnp.float32(0)))


def _frames_as_clips(batch: Batch) -> Batch:
    """B clips of T frames as B T clips of one frame."""
    clips, frames = batch["frames"].shape[:2]
    return {
        name: x.reshape(clips * frames, 1, *x.shape[2:]) if "T" in FIELDS[name].axes else jnp.repeat(x, frames, axis=0)
        for name, x in batch.items()
    }


def by_shape(step: Callable) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """Returns `step`, compiled for each shape of batch when the first of that shape comes: see `compile_step`."""
    programs: dict[tuple, Callable] = {}

    def call(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        shapes = tuple(sorted((name, value.shape) for name, value in batch.items()))
        if shapes not in programs:
            with jax.transfer_guard("allow"):
                programs[shapes] = compile_step(step, state, batch)
        return programs[shapes](state, batch)

    return call


def compile_step(step: Callable, state: TrainState, batch: Batch) -> Callable:
    """Compiles a training step for batches of one shape, its state donated, and says what it takes.

    Args:
      step: of `make_train_step`.
      state, batch: as they will be given, or their shapes, both with their layouts over the devices of a mesh.
    """
    start = time.perf_counter()
    layouts = jax.tree.map(lambda x: x.sharding, state)
    platform = layouts.step.mesh.devices.flat[0].platform
    with jax.set_mesh(layouts.step.mesh):
        jitted = jax.jit(step, donate_argnums=0, out_shardings=(layouts, None))
        with compiler.tracing(platform):
            lowered = jitted.lower(state, batch)
        compiled = lowered.compile(compiler.training_options(platform))
    compiler.release_memory()
    processes.meet()  # compiling takes one longer than another
    cost, memory = compiled.cost_analysis() or {}, compiled.memory_analysis()
    log.info(
        "training step compiled in %.1f s, for %d frames: %.1f GFLOP, %.2f GB of temporaries",
        time.perf_counter() - start,
        math.prod(batch["frames"].shape[:2]),
        cost.get("flops", 0.0) / 1e9,
        getattr(memory, "temp_size_in_bytes", 0) / 1e9,
    )
    return compiled
