"""Everything that a training step changes, in one tree."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, Mesh

from avs_jax import models, parallel


@flax.struct.dataclass
class TrainState:
    """The state of a run after `step` steps.

    `rng` never changes: step n draws from `fold_in(rng, n)`, so a resumed run draws what an unbroken one does.
    """

    step: jax.Array  # () int32
    params: dict
    model_state: dict  # batch-norm statistics: {"batch_stats": ...}, or empty
    opt_state: optax.OptState
    ema_params: dict  # empty unless train.ema_decay > 0
    rng: jax.Array  # (2,) uint32, the key's data

    def variables(self) -> dict:
        """Returns what `model.apply` takes: the averaged parameters where they are kept."""
        return {"params": self.ema_params or self.params, **self.model_state}

    def items(self) -> dict[str, dict]:
        """Returns the state as the items of a checkpoint: the weights, and what only training needs."""
        weights = {name: getattr(self, name) for name in ("params", "model_state", "ema_params")}
        return {"weights": weights, "training": {name: getattr(self, name) for name in ("step", "opt_state", "rng")}}

    def with_items(self, items: Mapping[str, dict]) -> TrainState:
        """Returns the state with the items of a checkpoint, or some of them, in place."""
        return self.replace(**{name: value for item in items.values() for name, value in item.items()})


def init_fn(
    model: nn.Module, tx: optax.GradientTransformation, batch: Mapping[str, jax.Array], seed: int, ema: bool
) -> Callable[[], TrainState]:
    """Returns the function that makes the state; trace it for shapes, jit it for values."""

    def init() -> TrainState:
        # Hundreds of draws, each unrolled by the default generator, would take longer to compile than a training step.
        key, rng = jax.random.key(seed, impl="rbg"), jax.random.key(seed)
        # Parameters do not depend on the batch's values nor on how many clips it has.
        one = {name: jnp.zeros((1, *value.shape[1:]), value.dtype) for name, value in batch.items()}
        variables = dict(model.init({"params": key}, models.prepare(one), train=False))
        params = variables.pop("params")
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            model_state={name: tree for name, tree in variables.items() if name == "batch_stats"},
            opt_state=tx.init(params),
            ema_params=params if ema else {},
            rng=jax.random.key_data(rng),
        )

    return init


def create(init: Callable[[], TrainState], mesh: Mesh) -> TrainState:
    """Makes the state in place: every device makes the part that it holds, see `parallel.shardings`."""
    return jax.jit(init, out_shardings=parallel.shardings(jax.eval_shape(init), mesh))()


def abstract(init: Callable[[], TrainState], mesh: Mesh | AbstractMesh) -> TrainState:
    """Returns the state's shapes, dtypes and layouts without making it; what a checkpoint is restored into."""
    shapes = jax.eval_shape(init)
    return jax.tree.map(
        lambda x, layout: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout),
        shapes,
        parallel.shardings(shapes, mesh),
    )
