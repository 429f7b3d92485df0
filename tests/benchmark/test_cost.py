"""The count of FLOPs and bytes, against formulas worked out by hand."""

import functools

import jax
import jax.numpy as jnp
import pytest

from avs_jax.benchmark import cost


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def test_a_matrix_product():
    found = cost.of(jnp.matmul, array(3, 5), array(5, 7))
    assert found == cost.Cost(2 * 3 * 5 * 7, 4 * (3 * 5 + 5 * 7 + 3 * 7))


def test_a_batched_product_in_bfloat16():
    q, k = array(2, 11, 4, 8, dtype=jnp.bfloat16), array(2, 13, 4, 8, dtype=jnp.bfloat16)
    found = cost.of(functools.partial(jnp.einsum, "nqhd,nkhd->nhqk"), q, k)
    assert found == cost.Cost(2 * 2 * 4 * 11 * 13 * 8, 2 * (2 * 11 * 32 + 2 * 13 * 32 + 2 * 4 * 11 * 13))


def conv(x, kernel, stride=1, groups=1):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (1, 6), (2, 3)])
def test_a_convolution(stride, groups):
    found = cost.of(
        functools.partial(conv, stride=stride, groups=groups), array(2, 8, 8, 6), array(3, 3, 6 // groups, 12)
    )
    side = 8 // stride
    assert found.flops == 2 * (2 * side * side * 12) * 9 * (6 // groups)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolutions_gradients_cost_about_as_much_each(stride):
    apply = functools.partial(conv, stride=stride)
    forward = cost.of(apply, array(2, 32, 32, 6), array(3, 3, 6, 12)).flops

    def loss(x, kernel):
        return jnp.sum(apply(x, kernel))

    for argument in (0, 1):  # the loss is linear: its gradients need no forward pass
        gradient = cost.of(jax.grad(loss, argument), array(2, 32, 32, 6), array(3, 3, 6, 12)).flops
        assert gradient == pytest.approx(forward, rel=0.1)


def test_loops_count_as_often_as_they_run():
    def body(x, _):
        return x @ x, None

    def loop(x):
        return jax.lax.scan(body, x, None, length=10)[0]

    once = 2 * 4**3
    assert cost.of(loop, array(4, 4)).flops == 10 * once
    assert cost.of(lambda x: jax.lax.map(loop, x), array(3, 4, 4)).flops == 30 * once
    assert cost.of(jax.jit(jax.checkpoint(loop)), array(4, 4)).flops == 10 * once


def test_a_custom_gradient_counts_what_is_run():
    @jax.custom_vjp
    def square(x):
        return x @ x

    square.defvjp(lambda x: (square(x), x), lambda x, g: (g @ x.T + x.T @ g,))
    assert cost.of(square, array(4, 4)).flops == 2 * 4**3
    assert cost.of(jax.value_and_grad(lambda x: jnp.sum(square(x))), array(4, 4)).flops == 3 * 2 * 4**3


def test_what_no_result_depends_on_is_free():
    def body(x, _):
        return x + 1, x @ x

    assert cost.of(lambda x: jax.lax.scan(body, x, None, length=10)[0], array(4, 4)).flops == 0


def test_of_branches_the_dearest_counts():
    def either(flag, x):
        return jax.lax.cond(flag, lambda x: x @ x @ x, lambda x: x @ x, x)

    assert cost.of(either, array(dtype=bool), array(4, 4)).flops == 2 * 2 * 4**3


def test_elementwise_work_is_free():
    assert cost.of(jnp.exp, array(4, 4)) == cost.Cost(0, 0)


def test_the_compiler_agrees_where_nothing_is_looped():
    def function(x, kernel, w):
        return conv(x, kernel).reshape(2, -1) @ w

    shapes = array(2, 8, 8, 6), array(3, 3, 6, 12), array(8 * 8 * 12, 64)
    theirs = jax.jit(function).lower(*shapes).compile().cost_analysis()["flops"]
    # The compiler leaves out the taps that lie in the convolution's padding.
    assert cost.of(function, *shapes).flops == pytest.approx(theirs, rel=0.1)


def test_a_choice_by_platform_counts_as_the_platform_s_own():
    def twice(x):
        return x @ x @ x

    def function(x):
        return jax.lax.platform_dependent(x, tpu=twice, default=lambda x: x @ x)

    def of(platform):
        return cost.of(jax.value_and_grad(lambda x: function(x).sum()), array(4, 4), platform=platform).flops

    assert of("tpu") == 2 * of("cpu") == 2 * of("cuda") > 0
