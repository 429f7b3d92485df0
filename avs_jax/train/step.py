"""One training step: the only place that takes gradients."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from avs_jax import losses, models
from avs_jax.train.state import TrainState

log = logging.getLogger(__name__)

Batch = dict[str, jax.Array]


def make_train_step(
    model: nn.Module, tx: optax.GradientTransformation, config, frozen: tuple[str, ...]
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """Returns the pure function (state, batch) -> (state, metrics) for `config`; jit it with the state donated.

    Args:
      model, tx: the model and its optimizer.
      config: the whole configuration; `loss` and `train` are read.
      frozen: top-level parts of the parameters for which no gradient is computed.

    With `train.accumulate` = A the batch is worked off in A equal parts and the gradients are averaged. Batch norm sees
    the parts one after the other, and a loss that divides by a number of annotated frames does so in each part.
    """

    def loss_fn(params, model_state, batch, key):
        fixed = {name: jax.lax.stop_gradient(tree) if name in frozen else tree for name, tree in params.items()}
        outputs, updated = model.apply(
            {"params": fixed, **model_state},
            models.prepare(batch),
            train=True,
            rngs={"dropout": key},
            mutable=list(model_state),
        )
        total, terms = losses.total_loss(outputs, batch, config.loss, jax.random.fold_in(key, 1))
        return total, (updated, {"loss": total, **terms})

    gradient_fn = jax.grad(loss_fn, has_aux=True)
    parts = config.train.accumulate

    def gradients(params, model_state, batch, key):
        if parts == 1:
            return gradient_fn(params, model_state, batch, key)

        # Every parts-th clip, so that a part is spread over the devices as the whole batch is.
        split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)

        def body(carry, part):
            total, stats = carry
            index, clips = part
            grads, (stats, metrics) = gradient_fn(params, stats, clips, jax.random.fold_in(key, index))
            return (jax.tree.map(jnp.add, total, grads), stats), metrics

        zeros = jax.tree.map(jnp.zeros_like, params)
        (total, stats), metrics = jax.lax.scan(body, (zeros, model_state), (jnp.arange(parts), split))
        return jax.tree.map(lambda g: g / parts, total), (stats, jax.tree.map(jnp.mean, metrics))

    def train_step(state: TrainState, batch: Batch):
        key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
        grads, (model_state, metrics) = gradients(state.params, state.model_state, batch, key)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = config.train.ema_decay
        ema = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state.ema_params, params) if decay else {}
        metrics["gradient_norm"] = optax.tree.norm(grads)
        new = state.replace(
            step=state.step + 1, params=params, model_state=model_state, opt_state=opt_state, ema_params=ema
        )
        return new, metrics

    return train_step


def compile_step(step: Callable, state: TrainState, batch: Batch) -> Callable:
    """Compiles a training step before the first batch needs it, its state donated, and says what it takes."""
    start = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
    cost, memory = compiled.cost_analysis() or {}, compiled.memory_analysis()
    log.info(
        "training step compiled in %.1f s: %.1f GFLOP, %.2f GB of temporaries",
        time.perf_counter() - start,
        cost.get("flops", 0.0) / 1e9,
        getattr(memory, "temp_size_in_bytes", 0) / 1e9,
    )
    return compiled
