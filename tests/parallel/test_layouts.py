"""The same run in every layout over devices, and what the compiler says that a device holds."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests.quick import quick_compilation  # noqa: F401

ROOT = pathlib.Path(__file__).parents[2]
EIGHT_DEVICES = {
    "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8",
    "PJRT_NPROC": "32",  # threads: devices that wait for each other must not hold all of them
}


def on_eight_devices(*arguments):
    """What a Python process on eight CPU devices prints last, read as JSON."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=os.environ | EIGHT_DEVICES, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "model, layouts",
    [
        ("avsegformer", ("8x1x1", "1x8x1", "4x2x1")),  # data x fsdp x tensor
        ("vct", ("2x2x2",)),
    ],
)
def test_losses_and_parameters_do_not_depend_on_the_layout(model, layouts):
    found = on_eight_devices("-m", "tests.parallel.layouts", model, "1x1x1", *layouts)
    alone = found["1x1x1"]["losses"]
    assert len(set(alone)) == len(alone) == 6
    for layout in layouts:
        np.testing.assert_allclose(found[layout]["losses"], alone, atol=1e-5, rtol=0, err_msg=layout)
        assert found[layout]["apart"] < 1e-7, (layout, found[layout]["worst"])


ARGUMENTS = """
import json
import jax
from avs_jax.parallel import mesh as meshes
from avs_jax.train import state as states
from tests.parallel import test_rules

def held(sizes):
    shapes = test_rules.shapes("s4:pvt_v2_b5")
    zeros = lambda: jax.tree.map(lambda x: jax.numpy.zeros(x.shape, x.dtype), shapes)
    state = states.abstract(zeros, meshes.create(sizes))
    state = {"params": state.params, "opt_state": state.opt_state}
    compiled = jax.jit(lambda state: 0, keep_unused=True).lower(state).compile()
    return compiled.memory_analysis().argument_size_in_bytes

print(json.dumps([held({"data": 8, "fsdp": 1, "tensor": 1}), held({"data": 1, "fsdp": 8, "tensor": 1})]))
"""


def test_by_the_compiler_fsdp_over_eight_leaves_less_than_a_sixth_on_a_device():
    whole, parts = on_eight_devices("-c", ARGUMENTS)
    assert whole > 1.6e9
    assert parts < whole / 6


MADE = """
import json
import jax, jax.numpy as jnp, numpy as np, optax
from avs_jax.parallel import mesh as meshes
from avs_jax.train import state as states

def init():
    keys = jax.random.split(jax.random.key(3, impl="rbg"))
    kernels = [jax.random.uniform(key, (64, 256)) for key in keys]
    params = {"head": {"predictor": {"mlp_1": {"kernel": kernels[0]}, "mlp_2": {"kernel": kernels[1]}}}}
    step, moments, rng = jnp.zeros((), int), optax.adam(1e-3).init(params), jnp.zeros(2, jnp.uint32)
    return states.TrainState(step, params, {}, moments, {}, rng)

alone = states.create(init, meshes.create(devices=jax.devices()[:1]))
split = states.create(init, meshes.create({"data": 1, "fsdp": 4, "tensor": 2}))
kernel = split.params["head"]["predictor"]["mlp_1"]["kernel"]
same = jax.tree.map(lambda a, b: bool(np.array_equal(jax.device_get(a), jax.device_get(b))), alone, split)
print(json.dumps([jax.tree.all(same), kernel.addressable_shards[0].data.shape]))
"""


def test_parameters_are_made_in_place_and_the_same_in_every_layout():
    assert on_eight_devices("-c", MADE) == [True, [32, 64]]
