"""Bilinear sampling for deformable attention: several forms of one function.

Locations are (x, y) in [0, 1] from edge to edge of a map, so a cell's centre lies at ((column + 0.5) / w,
(row + 0.5) / h). Outside the map is zero: each of a sample's four corners counts only where it lies inside.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from avs_jax.compiler import by_platform
from avs_jax.layers.heads import merge_heads, split_heads
from avs_jax.layers.loops import head_by_head

Form = Literal["auto", "gather", "packed", "looped", "tent"]
Shapes = tuple[tuple[int, int], ...]

AUTO: dict[str, Form] = {"cpu": "looped", "tpu": "tent", "default": "packed"}

# How many queries are read together on a CPU, at most.
QUERIES = 64


def sample(
    value: jax.Array, locations: jax.Array, weights: jax.Array, shapes: Shapes, form: Form = "auto"
) -> jax.Array:
    """Sums weighted bilinear samples over levels and points: (N, Q, heads, d), in the type of `value`.

    value: (N, S, heads, d), the maps of the given (h, w) level by level, row by row; S is the sum of all h w.
    locations: (N, Q, heads, levels, points, 2), (x, y); weights: (N, Q, heads, levels, points).
    form: "gather" takes the corners of every level with one gather each: the plain reference. "packed" lays the four
    neighbours of every grid point side by side and reads a sample with one gather; its backward pass gathers again
    instead of keeping what it read. "looped" works on one frame and head at a time, and packs for its backward pass
    alone: by far the fastest on a CPU, elsewhere it is serial and would gather a batch that is sharded. "tent" gathers
    nothing: every cell's weight for every query, a product of two tents, is summed over the samples and multiplied with
    the cells; many times the operations, all of them a TPU's matrix unit likes; on a CPU it is slow. "auto" is what
    AUTO says of the platform.
    """
    if value.shape[1] != sum(h * w for h, w in shapes):
        raise ValueError(f"{value.shape[1]} tokens do not fill maps of the sizes {shapes}")
    match form:
        case "auto":
            forms = {platform: functools.partial(sample, shapes=shapes, form=form) for platform, form in AUTO.items()}
            return by_platform(value, locations, weights, **forms)
        case "packed":
            return _packed(value, locations, weights, shapes)
        case "looped":
            return _looped(value, locations, weights, shapes)
        case "tent":
            return _tent(value, locations, weights, shapes)
        case "gather":
            return _gather(value, locations, weights, shapes)
    raise ValueError(f"no form of sampling is named {form!r}; known: {', '.join(get_args(Form))}")


def chosen(form: Form) -> Form:
    """The form that `form` is on the default platform."""
    return AUTO.get(jax.default_backend(), AUTO["default"]) if form == "auto" else form


def _gather(value: jax.Array, locations: jax.Array, weights: jax.Array, shapes: Shapes) -> jax.Array:
    frames, _, heads, features = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    locations = locations.astype(jnp.promote_types(locations.dtype, jnp.float32))
    output, start = 0, 0
    for level, (height, width) in enumerate(shapes):
        cells = value[:, start : start + height * width]
        start += height * width
        x = locations[:, :, :, level, :, 0] * width - 0.5  # (N, Q, heads, points)
        y = locations[:, :, :, level, :, 1] * height - 0.5
        for column in (jnp.floor(x), jnp.floor(x) + 1):
            for row in (jnp.floor(y), jnp.floor(y) + 1):
                inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
                share = (1 - jnp.abs(x - column)) * (1 - jnp.abs(y - row)) * weights[:, :, :, level]
                index = (jnp.clip(row, 0, height - 1) * width + jnp.clip(column, 0, width - 1)).astype(jnp.int32)
                index = jnp.moveaxis(index, 3, 2).reshape(frames, queries * points, heads, 1)
                corner = jnp.take_along_axis(cells, index, axis=1).reshape(frames, queries, points, heads, features)
                output += jnp.einsum("nqhp,nqphd->nqhd", jnp.where(inside, share, 0), corner)
    return output.astype(value.dtype)


# Both rematerialised: their backward passes then keep nothing but the arguments.
@functools.partial(jax.checkpoint, static_argnums=(3,))
def _packed(value: jax.Array, locations: jax.Array, weights: jax.Array, shapes: Shapes) -> jax.Array:
    rows, blend = _rows_and_blend(locations, weights, shapes)
    over_heads = jax.vmap(functools.partial(_read_at_once, shapes), in_axes=1, out_axes=1)
    return jax.vmap(over_heads)(value, rows, blend)


@functools.partial(jax.checkpoint, static_argnums=(3,))
def _looped(value: jax.Array, locations: jax.Array, weights: jax.Array, shapes: Shapes) -> jax.Array:
    rows, blend = _rows_and_blend(locations, weights, shapes)
    arrays = tuple(map(merge_heads, (value, *blend)))
    read = functools.partial(_read_one_head, shapes)
    return split_heads(head_by_head(read, value.shape[2], arrays, (merge_heads(rows),)), value.shape[2])


def _read_one_head(shapes: Shapes, value: jax.Array, *blend_and_rows: jax.Array) -> jax.Array:
    *blend, rows = blend_and_rows
    return _read_in_parts(shapes, value, rows, tuple(blend))


def _tent(value: jax.Array, locations: jax.Array, weights: jax.Array, shapes: Shapes) -> jax.Array:
    starts = np.cumsum([0, *(height * width for height, width in shapes)])

    def level(value: jax.Array, locations: jax.Array, weights: jax.Array, shape: tuple[int, int]) -> jax.Array:
        precise = jnp.promote_types(locations.dtype, jnp.float32)
        height, width = shape
        x = locations[..., 0].astype(precise) * width - 0.5  # (N, Q, heads, points)
        y = locations[..., 1].astype(precise) * height - 0.5
        of_columns = jnp.maximum(1 - jnp.abs(x[..., None] - jnp.arange(width)), 0)
        of_rows = jnp.maximum(1 - jnp.abs(y[..., None] - jnp.arange(height)), 0) * weights[..., None]
        # Sums of products of the points, not an einsum: fused with the product with the cells on a TPU.
        of_cells = jnp.sum(of_rows[..., :, None] * of_columns[..., None, :], axis=3)  # (N, Q, heads, h, w)
        of_cells = of_cells.reshape(*of_cells.shape[:3], -1).astype(value.dtype)
        return jnp.einsum("nqhs,nshd->nqhd", of_cells, value, preferred_element_type=precise)

    output = 0
    for i, shape in enumerate(shapes):  # rematerialised: the weights of all cells are not kept for the gradient
        cells = value[:, starts[i] : starts[i + 1]]
        output += jax.checkpoint(level, static_argnums=(3,))(cells, locations[:, :, :, i], weights[:, :, :, i], shape)
    return output.astype(value.dtype)


def _bordered(value: jax.Array, shapes: Shapes) -> list[jax.Array]:
    """Of value (S, d) each level with a border of zeros, row by row: ((h + 2) (w + 2), d)."""
    levels, start = [], 0
    for height, width in shapes:
        cells = value[start : start + height * width].reshape(height, width, -1)
        levels.append(jnp.pad(cells, ((1, 1), (1, 1), (0, 0))).reshape((height + 2) * (width + 2), -1))
        start += height * width
    return levels


def _steps(shapes: Shapes) -> list[tuple[int, ...]]:
    """From a sample's upper left cell to its four, in the bordered rows of each level."""
    return [(0, 1, width + 2, width + 3) for _, width in shapes]


def _pack(value: jax.Array, shapes: Shapes) -> jax.Array:
    """(S, d) -> (R, 4, d): of every bordered cell itself, its right, its lower and its lower right neighbour."""
    levels = zip(_bordered(value, shapes), _steps(shapes), strict=True)
    return jnp.concatenate([jnp.stack([jnp.roll(cells, -step, 0) for step in steps], 1) for cells, steps in levels])


# How a sample weighs its cells: the share of the right ones, the weights of the upper and the lower pair.
Blend = tuple[jax.Array, jax.Array, jax.Array]


def _rows_and_blend(locations: jax.Array, weights: jax.Array, shapes: Shapes) -> tuple[jax.Array, Blend]:
    """The bordered row of each sample's upper left cell, and its blend: all (N, Q, heads, levels x points)."""
    (height, width), sizes = np.array(shapes).T[..., None], np.array([(h + 2) * (w + 2) for h, w in shapes])
    first = (np.cumsum(sizes) - sizes)[:, None]

    x, y = jnp.moveaxis(locations.astype(jnp.promote_types(locations.dtype, jnp.float32)), -1, 0)
    x, y = x * width - 0.5, y * height - 0.5
    left, upper = jnp.floor(x), jnp.floor(y)
    touches = (left >= -1) & (left < width) & (upper >= -1) & (upper < height)
    column, row = (jnp.where(touches, z + 1, 0).astype(jnp.int32) for z in (left, upper))
    x, y, weights = x - left, y - upper, jnp.where(touches, weights, 0)
    rows = first + row * (width + 2) + column
    return jax.tree.map(lambda z: z.reshape(*z.shape[:3], -1), (rows, (x, weights * (1 - y), weights * y)))


def _shares(blend: Blend) -> jax.Array:
    """Of a sample's upper left, upper right, lower left and lower right cell: (..., 4)."""
    x, upper, lower = blend
    return jnp.stack([upper * (1 - x), upper * x, lower * (1 - x), lower * x], axis=-1)


def _with_gradient(read: Callable[..., jax.Array], gradients: Callable) -> Callable[..., jax.Array]:
    """read(shapes, value, rows, blend), of whose forward pass nothing but the arguments is kept.

    gradients(shapes, value, rows, shares, gradient) gives those of value and shares, in the shares' precision.
    """

    def forward(shapes: Shapes, value: jax.Array, rows: jax.Array, blend: Blend):
        return read(shapes, value, rows, blend), (value, rows, blend)

    def backward(shapes: Shapes, saved, gradient: jax.Array):
        value, rows, blend = saved
        shares, of_blend = jax.vjp(_shares, blend)
        value_and_gradient = (z.astype(shares.dtype) for z in (value, gradient))
        of_value, of_shares = gradients(shapes, rows, shares, *value_and_gradient)
        return of_value.astype(value.dtype), None, *of_blend(of_shares)

    function = jax.custom_vjp(read, nondiff_argnums=(0,))
    function.defvjp(forward, backward)
    return function


def _sum_at_once(shapes: Shapes, value: jax.Array, rows: jax.Array, blend: Blend) -> jax.Array:
    """Sums the cells of value (S, d) that every query reads, times their shares: (Q, d). One gather of four cells."""
    shares = _shares(blend)
    # A product and a sum, not an einsum: XLA fuses them with the gather.
    return jnp.sum(_pack(value, shapes)[rows].astype(shares.dtype) * shares[..., None], axis=(1, 2)).astype(value.dtype)


def _gradients_at_once(shapes: Shapes, rows: jax.Array, shares: jax.Array, value: jax.Array, gradient: jax.Array):
    """One gather for the shares' gradient, one scatter-add for the value's."""
    table, unpack = jax.vjp(lambda value: _pack(value, shapes), value)
    of_shares = jnp.sum(table[rows] * gradient[:, None, None], axis=-1)
    updates = shares[..., None] * gradient[:, None, None]
    return unpack(jnp.zeros_like(table).at[rows].add(updates, mode="promise_in_bounds"))[0], of_shares


def _sum_in_parts(shapes: Shapes, value: jax.Array, rows: jax.Array, blend: Blend) -> jax.Array:
    """`_sum_at_once`, some queries after the others, of which one column of `rows` after the other.

    A CPU's vector units then work along d, in place of along the samples; and cells that are not packed stay in its
    cache.
    """
    cells, steps = jnp.concatenate(_bordered(value, shapes)), _steps_of_samples(shapes, rows)

    def read(rows: jax.Array, *blend: jax.Array) -> jax.Array:
        output = 0
        for i in range(rows.shape[1]):
            four = (_rows_of(cells, rows[:, i] + step).astype(blend[0].dtype) for step in steps[i])
            upper_left, upper_right, lower_left, lower_right = four
            x, upper, lower = (z[:, i, None] for z in blend)
            output += upper * (upper_left + x * (upper_right - upper_left))
            output += lower * (lower_left + x * (lower_right - lower_left))
        return output.astype(value.dtype)

    parts = jax.lax.map(lambda part: read(*part), _in_parts(rows, *blend))
    return parts.reshape(-1, value.shape[-1])[: len(rows)]


def _gradients_in_parts(shapes: Shapes, rows: jax.Array, shares: jax.Array, value: jax.Array, gradient: jax.Array):
    """`_gradients_at_once`, some queries after the others, so that what they read and what they add is in the cache.

    Products over d are fastest of packed cells, the scatter into cells that are not.
    """
    packed = _pack(value, shapes).reshape(-1, 4 * value.shape[-1])
    cells, unpack = jax.vjp(lambda value: jnp.concatenate(_bordered(value, shapes)), value)
    steps = np.array(_steps_of_samples(shapes, rows))

    def of_shares(rows: jax.Array, gradient: jax.Array) -> jax.Array:
        fours = _rows_of(packed, rows).reshape(*rows.shape, 4, -1)
        return jnp.einsum("qscd,qd->qsc", fours, gradient)

    def add(total: jax.Array, part: tuple[jax.Array, ...]):
        rows, shares, gradient = part
        updates = shares[..., None] * gradient[:, None, None]
        return total.at[rows[..., None] + steps].add(updates, mode="promise_in_bounds"), None

    of_cells, _ = jax.lax.scan(add, jnp.zeros_like(cells), _in_parts(rows, shares, gradient))
    products = jax.lax.map(lambda part: of_shares(*part), _in_parts(rows, gradient))
    return unpack(of_cells)[0], products.reshape(-1, *shares.shape[1:])[: len(shares)]


def _in_parts(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Each (Q, ...) as (parts, at most QUERIES, ...): equal parts, of which zeros fill the last."""
    parts = math.ceil(len(arrays[0]) / QUERIES)

    def split(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, -len(x) % parts), *((0, 0),) * (x.ndim - 1)))
        return x.reshape(parts, -1, *x.shape[1:])

    return tuple(map(split, arrays))


def _steps_of_samples(shapes: Shapes, rows: jax.Array) -> list[tuple[int, ...]]:
    """`_steps` for each column of rows (Q, samples)."""
    return [steps for steps in _steps(shapes) for _ in range(rows.shape[1] // len(shapes))]


def _rows_of(table: jax.Array, rows: jax.Array) -> jax.Array:
    return table.at[rows].get(mode="promise_in_bounds")


_read_at_once = _with_gradient(_sum_at_once, _gradients_at_once)
_read_in_parts = _with_gradient(_sum_in_parts, _gradients_in_parts)
