"""20 AdamW steps of a small AVSegFormer from rule weights, in a precision: python adamw_steps.py float32|float64.

Prints {"losses": [...], "types": the floating-point types in the step's program}. A process of its own, because
float64 is had by giving float32 another meaning before anything of the project is imported.
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

STEPS = 20


def main(precision):
    if precision == "float64":
        jax.config.update("jax_enable_x64", True)
        jnp.float32 = jnp.float64
    import optax
    import rule

    from avs_jax import convert, losses, models
    from avs_jax.convert import tables
    from avs_jax.train import optimizer
    from tests.integration import tiny

    config = tiny.get_config()
    with config.unlocked():
        config.model.dtype = precision
        config.optimizer.update(learning_rate=2e-4, schedule="constant", weight_decay=0.01)
    table = tables.model(config.model)
    state_dict = rule.weights({entry.source: entry.shape for entry in table if getattr(entry, "dtype", "") != "int64"})
    counters = {entry.source: np.zeros((), np.int64) for entry in table if entry.source not in state_dict}
    variables = convert.from_torch(state_dict | counters, config.model)
    trained, fixed = cast(variables["params"]), {"batch_stats": cast(variables["batch_stats"])}
    batch = cast(example(rule))
    model = models.create(config.model)
    never = optimizer.never_trained(config.model)
    tx = optimizer.create(config.optimizer, STEPS, {}, never)

    def step(params, state):
        def loss(params):
            outputs = model.apply({"params": params, **fixed}, batch, train=False)
            return losses.total_loss(outputs, batch, config.loss)[0]

        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    state, found = tx.init(trained), []
    program = str(jax.make_jaxpr(step)(trained, state))
    types = [name for name in ("f16", "bf16", "f32", "f64") if f":{name}[" in program]
    run = jax.jit(step)
    for _ in range(STEPS):
        trained, state, value = run(trained, state)
        found.append(float(value))
    print(json.dumps({"losses": found, "types": types}))


def example(rule):
    """Two clips of three frames, half of each a mask."""
    masks = np.zeros((2, 3, 64, 64), np.uint8)
    masks[0, :, :, 32:] = masks[1, :, 32:] = 1
    return {
        "frames": rule.array("input/frames", (2, 3, 64, 64, 3), 1.0, 0.0),
        "log_mel": rule.array("input/log_mel", (2, 3, 96, 64), 1.0, 0.0),
        "masks": masks,
        "frame_valid": np.ones((2, 3), bool),
        "mask_valid": np.ones((2, 3), bool),
        "clip_valid": np.ones(2, bool),
    }


def cast(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32) if np.asarray(x).dtype.kind == "f" else x, tree)


if __name__ == "__main__":
    main(sys.argv[1])
