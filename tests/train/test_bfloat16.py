"""A training step in bfloat16 does its products in bfloat16: whatever is wider costs an accelerator twice and more."""

import jax
import pytest

from avs_jax import ahead_of_time
from avs_jax.benchmark import cost
from avs_jax.parallel import mesh as meshes
from configs import ms3, tpavi_ms3, vct_ms3

CONFIGS = {
    "avsegformer": lambda: ms3.get_config("pvt_v2_b5,224"),
    "vct": vct_ms3.get_config,
    "tpavi": tpavi_ms3.get_config,
}


@pytest.mark.parametrize("system", CONFIGS)
def test_few_products_of_a_training_step_are_wider(system, monkeypatch):
    """Of full size, traced alone. Wider: deformable offsets, the gradients of attention's weights, resized masks."""
    config = CONFIGS[system]().unlock()
    config.model.dtype, config.train.batch_size = "bfloat16", 1
    mesh = meshes.create()
    program = ahead_of_time._program("train", config, mesh, ahead_of_time._state(config, mesh))
    with jax.set_mesh(mesh):
        traced = jax.jit(program.function).trace(*program.arguments).jaxpr.jaxpr
    total = cost.of_jaxpr(traced, "cuda").flops

    def wider_alone(count):
        def flops(equation):
            return 0.0 if all(x.aval.dtype == "bfloat16" for x in equation.invars[:2]) else count(equation)

        return flops

    for name in ("_dot_flops", "_conv_flops"):
        monkeypatch.setattr(cost, name, wider_alone(getattr(cost, name)))
    wider = cost.of_jaxpr(traced, "cuda").flops
    assert 0 < wider < 0.06 * total
