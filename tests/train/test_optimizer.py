"""The optimizers against PyTorch's numbers, freezing, schedules."""

import golden
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from avs_jax.train import optimizer
from configs import base


def settings(**changes):
    config = base.get_config("s4").optimizer.copy_and_resolve_references()
    with config.unlocked():
        config.update(ConfigDict(changes))
    return config


def run(tx, params, gradients):
    state, seen = tx.init(params), []
    for gradient in gradients:
        updates, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        seen.append(params)
    return seen, state


@pytest.mark.parametrize(
    "case_name, name, rate, decay",
    [("adamw_lr2e-5", "adamw", 2e-5, 0.01), ("adamw_lr1e-2", "adamw", 1e-2, 0.01), ("adam_lr1e-4", "adam", 1e-4, 0.0)],
)
def test_three_steps_equal_pytorch(case_name, name, rate, decay):
    case = golden.load("avsegformer/optimizers")
    tx = optimizer.create(settings(name=name, learning_rate=rate, weight_decay=decay), 3, {})
    gradients = [{"head": jnp.asarray(case.inputs[f"gradient_{i}"])} for i in range(3)]
    seen, _ = run(tx, {"head": jnp.asarray(case.inputs["parameter"])}, gradients)
    for step, params in enumerate(seen, start=1):
        assert case.check(f"{case_name}/after_{step}", params["head"]).max_abs < 1e-6


def test_a_part_that_starts_later_is_left_alone_until_then():
    """No update and no decay before its step; then its own bias correction, as PyTorch without earlier gradients."""
    config = settings(learning_rate=0.1, weight_decay=0.1)
    params = {"backbone": jnp.ones(3), "head": jnp.ones(3), "vggish": jnp.ones(3)}
    gradients = [jax.tree.map(lambda p, i=i: p * (i + 1.0), params) for i in range(4)]
    late, state = run(optimizer.create(config, 4, {"backbone": 2}, ("vggish",)), params, gradients)
    plain, _ = run(optimizer.create(config, 4, {}), params, gradients[2:])

    np.testing.assert_array_equal(late[1]["backbone"], params["backbone"])
    np.testing.assert_array_equal(late[2]["backbone"], plain[0]["backbone"])
    np.testing.assert_array_equal(late[3]["backbone"], plain[1]["backbone"])
    assert not np.array_equal(late[0]["head"], params["head"])
    np.testing.assert_array_equal(late[3]["vggish"], params["vggish"])
    moments = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (3,)]
    assert len(moments) == 4  # two each for backbone and head, none for vggish


def test_frozen_parts_over_time():
    assert optimizer.frozen_parts(4, {"backbone": 5}, ("vggish",)) == ("backbone", "vggish")
    assert optimizer.frozen_parts(5, {"backbone": 5}, ("vggish",)) == ("vggish",)
    assert optimizer.frozen_parts(0, {"backbone": 0}, ()) == ()
    assert optimizer.next_change(0, {"backbone": 5}) == 5
    assert optimizer.next_change(5, {"backbone": 5}) == float("inf")


def test_schedules():
    constant = optimizer.schedule(settings(learning_rate=2.0), 100)
    assert [float(constant(s)) for s in (0, 99)] == [2.0, 2.0]
    warm = optimizer.schedule(settings(learning_rate=2.0, schedule="cosine", warmup_steps=10), 110)
    np.testing.assert_allclose([float(warm(s)) for s in (0, 5, 10, 60, 110)], [0, 1, 2, 1, 0], atol=1e-6)
    poly = optimizer.schedule(settings(learning_rate=2.0, schedule="poly"), 100)
    np.testing.assert_allclose(float(poly(50)), 2.0 * 0.5**0.9, rtol=1e-6)


def test_gradient_clipping_bounds_the_global_norm():
    config = settings(name="sgd", learning_rate=1.0, clip_norm=1.0)
    gradient = {"a": jnp.full((3,), 10.0), "b": jnp.full((4,), -10.0)}
    seen, _ = run(optimizer.create(config, 1, {}), jax.tree.map(jnp.zeros_like, gradient), [gradient])
    np.testing.assert_allclose(optax.tree.norm(seen[0]), 1.0, rtol=1e-6)


@pytest.mark.parametrize("name, later", [("adamw", {}), ("adam", {}), ("adamw", {"head": 1})])
def test_a_step_that_is_not_healthy_leaves_the_state_as_it_was(name, later):
    tx = optimizer.create(settings(name=name, learning_rate=0.1, warmup_steps=3), 9, later)
    params = {"head": jnp.ones(3)}

    @jax.jit
    def step(healthy, gradient, old):
        updates, new = tx.update({"head": gradient}, old, params, healthy=healthy)
        return updates, optimizer.keep_healthy(healthy, new, old)

    _, state = step(True, jnp.arange(3.0), tx.init(params))
    _, same = step(False, jnp.full(3, jnp.nan), state)
    jax.tree.map(np.testing.assert_array_equal, same, state)
    updates, after = step(True, jnp.full(3, 2.0), same)
    expected, untold = tx.update({"head": jnp.full(3, 2.0)}, state, params)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), (updates, after), (expected, untold))


def test_moments_change_in_place():
    """On a CPU no second copy of a moment is held beside the donated ones."""
    tx = optimizer.create(settings(), 9, {})
    params = {"head": jnp.ones((1024, 256))}

    def step(params, state, gradients):
        healthy = jnp.isfinite(jnp.sum(gradients["head"]))
        updates, new = tx.update(gradients, state, params, healthy=healthy)
        return optax.apply_updates(params, updates), optimizer.keep_healthy(healthy, new, state)

    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, tx.init(params), params).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < params["head"].nbytes / 2
