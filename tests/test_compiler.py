"""Help for compilation: what it changes, and what it leaves as it was."""

import gc
import pathlib

import jax
import jax.numpy as jnp
import pytest

from avs_jax import compiler


def forms(x):
    return compiler.by_platform(x, cpu=lambda x: x + 1, tpu=lambda x: x * 2, default=lambda x: x)


def primitives(platform):
    with compiler.tracing(platform):
        jaxpr = jax.make_jaxpr(lambda x: forms(x))(1.0)
    return {equation.primitive.name for equation in jaxpr.eqns}


def test_only_the_form_of_a_known_platform_is_traced():
    assert primitives("cpu") == {"add"}
    assert primitives("tpu") == {"mul"}
    assert primitives("gpu") == primitives(None) == {"platform_index", "cond"}
    assert forms(jnp.float32(3)) == {"cpu": 4, "tpu": 6}.get(jax.default_backend(), 3)


@pytest.mark.parametrize("enabled", [True, False])
def test_after_tracing_all_is_as_before(enabled):
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with pytest.raises(ZeroDivisionError), compiler.tracing("cpu"):
            assert not gc.isenabled()
            raise ZeroDivisionError
        assert gc.isenabled() == enabled
        assert {equation.primitive.name for equation in jax.make_jaxpr(forms)(1.0).eqns} != {"add"}
    finally:
        (gc.enable if before else gc.disable)()


def test_the_compiler_takes_the_options():
    platform = jax.devices()[0].platform
    compiled = jax.jit(jnp.sin).lower(1.0).compile(compiler.training_options(platform))
    assert compiled(0.0) == 0


def test_freed_memory_goes_back_to_the_system():
    def resident():
        return 4096 * int(pathlib.Path("/proc/self/statm").read_text().split()[1])

    blocks = [bytes(1000) for _ in range(100_000)]
    last = blocks[-1]  # above all others, so that none of them is given back by itself
    del blocks
    before = resident()
    compiler.release_memory()
    assert resident() < before - 50_000_000, last[0]
