"""Matrix products and convolutions with weights, whose gradients take the form that is fast on each platform."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from avs_jax.compiler import by_platform

# On a CPU: channels from which on a convolution's weight gradient is faster as matrix products, and features up to
# which transposing a matrix in memory pays.
FEW, MANY = 16, 1024


def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x (..., C) times a kernel (C, D) -> (..., D); or each x[n] (N, ..., C) times its own of N kernels (N, C, D).

    Raises:
      TypeError: they are of two types; JAX would take the wider, and compute all in float32 for one such argument.
    """
    _check_types(x, kernel)
    return _matmul(x, kernel)


def _check_types(x: jax.Array, kernel: jax.Array) -> None:
    if x.dtype != kernel.dtype:
        raise TypeError(f"a product of {x.dtype} with a kernel of {kernel.dtype}; cast one of them")


def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    batch = tuple(range(kernel.ndim - 2))
    return jax.lax.dot_general(x, kernel, (((x.ndim - 1,), (kernel.ndim - 2,)), (batch, batch)))


_matmul = jax.custom_vjp(_product)


def _matmul_forward(x: jax.Array, kernel: jax.Array):
    return _product(x, kernel), (x, kernel)  # in the open, so that rematerialisation knows a product


def _matmul_backward(saved, gradient: jax.Array):
    x, kernel = saved
    weights_gradient = functools.partial(_weights_gradient, batch=kernel.ndim - 2)
    return _product(gradient, kernel.mT), weights_gradient(x, gradient)


_matmul.defvjp(_matmul_forward, _matmul_backward)


def _weights_gradient(x: jax.Array, gradient: jax.Array, batch: int) -> jax.Array:
    """x^T gradient, over all axes between the first `batch` and the last: (..., C, D)."""

    def over_rows(x: jax.Array, gradient: jax.Array) -> jax.Array:
        axes, kept = tuple(range(batch, x.ndim - 1)), tuple(range(batch))
        return jax.lax.dot_general(x, gradient, ((axes, axes), (kept, kept)))

    def transposed(x: jax.Array, gradient: jax.Array) -> jax.Array:
        return _of_transposed(*(y.reshape(*y.shape[:batch], -1, y.shape[-1]) for y in (x, gradient)))

    return by_platform(x, gradient, cpu=transposed, default=over_rows)


def _of_transposed(x: jax.Array, y: jax.Array) -> jax.Array:
    """x^T y of x (..., rows, C) and y (..., rows, D), the narrower of the two transposed in memory.

    XLA's CPU backend would otherwise read a matrix by its columns, at half the speed where a row is a power of two
    long. The barriers keep it from joining transposition and product again.
    """
    if min(x.shape[-1], y.shape[-1]) > MANY:
        return x.mT @ y
    if x.shape[-1] <= y.shape[-1]:
        return jax.lax.optimization_barrier(x.mT) @ y
    return jax.lax.optimization_barrier(jax.lax.optimization_barrier(y.mT) @ x).mT


def conv2d(x: jax.Array, kernel: jax.Array, stride: int = 1, padding: int = 0, dilation: int = 1) -> jax.Array:
    """Convolves (N, H, W, C) with a kernel (k, k, C, features), `padding` zeros on every side.

    Raises:
      TypeError: they are of two types.
    """
    _check_types(x, kernel)
    if kernel.shape[:2] == (1, 1) and padding == 0:
        return matmul(x[:, ::stride, ::stride], kernel[0, 0])
    return _convolve(x, kernel, stride, padding, dilation)


def _convolution(x: jax.Array, kernel: jax.Array, stride: int, padding: int, dilation: int) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((padding, padding),) * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


_convolve = jax.custom_vjp(_convolution, nondiff_argnums=(2, 3, 4))


def _convolve_forward(x: jax.Array, kernel: jax.Array, stride: int, padding: int, dilation: int):
    return _convolution(x, kernel, stride, padding, dilation), (x, kernel)


def _convolve_backward(stride: int, padding: int, dilation: int, saved, gradient: jax.Array):
    x, kernel = saved
    convolve = functools.partial(_convolution, stride=stride, padding=padding, dilation=dilation)

    def as_convolution(x: jax.Array, gradient: jax.Array) -> jax.Array:
        return jax.linear_transpose(lambda kernel: convolve(x, kernel), kernel)(gradient)[0]

    def tap_by_tap(x: jax.Array, gradient: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        (_, height, width, features), (rows, columns, channels, _) = gradient.shape, kernel.shape
        transposed = jax.lax.optimization_barrier(gradient.reshape(-1, features).mT)

        def of_tap(place: tuple[jax.Array, jax.Array]) -> jax.Array:
            zero = np.int32(0)
            extent = (len(x), stride * (height - 1) + 1, stride * (width - 1) + 1, channels)
            seen = jax.lax.dynamic_slice(x, (zero, *place, zero), extent)[:, ::stride, ::stride]
            return transposed @ seen.reshape(-1, channels)

        places = tuple(dilation * axis.ravel() for axis in np.indices((rows, columns), np.int32))
        return jax.lax.map(of_tap, places).mT.reshape(kernel.shape)

    on_cpu = tap_by_tap if kernel.shape[2] >= FEW else as_convolution
    of_kernel = by_platform(x, gradient, cpu=on_cpu, default=as_convolution)
    return jax.linear_transpose(lambda x: convolve(x, kernel), x)(gradient)[0], of_kernel


_convolve.defvjp(_convolve_forward, _convolve_backward)
