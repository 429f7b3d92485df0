"""Bilinear sampling for deformable attention: several forms of one function.

Locations are (x, y) in [0, 1] from edge to edge of a map, so a cell's centre lies at ((column + 0.5) / w,
(row + 0.5) / h). Outside the map is zero: each of a sample's four corners counts only where it lies inside.
"""

from __future__ import annotations

import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from avs_jax.compiler import by_platform
from avs_jax.layers.heads import fold_heads, unfold_heads
from avs_jax.layers.loops import one_by_one

Form = Literal["auto", "gather", "packed", "looped", "tent"]
Shapes = tuple[tuple[int, int], ...]

AUTO: dict[str, Form] = {"cpu": "looped", "tpu": "tent", "default": "packed"}


def sample(
    value: jax.Array, locations: jax.Array, weights: jax.Array, shapes: Shapes, form: Form = "auto"
) -> jax.Array:
    """Sums weighted bilinear samples over levels and points: (N, Q, heads, d), in the type of `value`.

    value: (N, S, heads, d), the maps of the given (h, w) level by level, row by row; S is the sum of all h w.
    locations: (N, Q, heads, levels, points, 2), (x, y); weights: (N, Q, heads, levels, points).
    form: "gather" takes the corners of every level with one gather each: the plain reference. "packed" lays the four
    neighbours of every grid point side by side and reads a sample with one gather; its backward pass gathers again
    instead of keeping what it read. "looped" is "packed" for one frame and head at a time: by far the fastest on a
    CPU, elsewhere it is serial and would gather a batch that is sharded. "tent" gathers nothing: every cell's weight
    for every query, a product of two tents, is summed over the samples and multiplied with the cells; many times the
    operations, all of them a TPU's matrix unit likes; on a CPU it is slow. "auto" is what AUTO says of the platform.
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


def _packed(value: jax.Array, locations: jax.Array, weights: jax.Array, shapes: Shapes) -> jax.Array:
    over_heads = jax.vmap(functools.partial(_sample_one, shapes, False), in_axes=1, out_axes=1)
    return jax.vmap(over_heads)(value, locations, weights)


def _looped(value: jax.Array, locations: jax.Array, weights: jax.Array, shapes: Shapes) -> jax.Array:
    arguments = tuple(map(unfold_heads, (value, locations, weights)))
    return fold_heads(one_by_one(functools.partial(_sample_head, shapes), (), arguments), value.shape[2])


def _sample_head(shapes: Shapes, _, each, constants) -> jax.Array:
    return _sample_one(shapes, True, *each)


# Rematerialised: its backward pass then keeps nothing but the arguments.
@functools.partial(jax.checkpoint, static_argnums=(0, 1))
def _sample_one(
    shapes: Shapes, by_columns: bool, value: jax.Array, locations: jax.Array, weights: jax.Array
) -> jax.Array:
    """Samples one head of one frame: value (S, d), locations (Q, levels, points, 2), weights (Q, levels, points)."""
    return _sum_rows(shapes, by_columns, value, *_rows_and_shares(locations, weights, shapes))


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


def _pack(value: jax.Array, shapes: Shapes) -> jax.Array:
    """(S, d) -> (R, 4, d): for every grid point its upper left, upper right, lower left and lower right cell.

    A map of (h, w) cells has (h + 1)(w + 1) grid points; what lies outside is zero.
    """
    rows, start = [], 0
    for height, width in shapes:
        cells = value[start : start + height * width].reshape(height, width, -1)
        cells = jnp.pad(cells, ((1, 1), (1, 1), (0, 0)))
        neighbours = jnp.stack([cells[:-1, :-1], cells[:-1, 1:], cells[1:, :-1], cells[1:, 1:]], axis=2)
        rows.append(neighbours.reshape((height + 1) * (width + 1), 4, -1))
        start += height * width
    return jnp.concatenate(rows)


def _rows_and_shares(locations: jax.Array, weights: jax.Array, shapes: Shapes) -> tuple[jax.Array, jax.Array]:
    """The row (Q, levels x points) of `_pack` that each sample reads, and its four corners' shares (..., 4)."""
    size = np.array([(width, height) for height, width in shapes])[:, None]  # (levels, 1, xy)
    grid = size + 1
    first_row = np.cumsum(np.prod(grid, -1), axis=0) - np.prod(grid, -1)  # (levels, 1)

    pixel = locations.astype(jnp.promote_types(locations.dtype, jnp.float32)) * size - 0.5
    corner = jnp.floor(pixel)
    x, y = jnp.moveaxis(pixel - corner, -1, 0)
    touches = jnp.all((corner >= -1) & (corner < size), axis=-1)
    column, row = jnp.moveaxis(jnp.where(touches[..., None], corner + 1, 0).astype(jnp.int32), -1, 0)
    rows = first_row + row * grid[..., 0] + column

    shares = jnp.stack([(1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x], axis=-1)
    shares *= jnp.where(touches, weights, 0)[..., None]
    return rows.reshape(len(rows), -1), shares.reshape(len(rows), -1, 4)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sum_rows(shapes: Shapes, by_columns: bool, value: jax.Array, rows: jax.Array, shares: jax.Array) -> jax.Array:
    """Sums the packed rows of value (S, d) that every query reads, times their shares: (Q, d).

    `by_columns`: one column of `rows` after the other, all queries' first samples, then their second ... A CPU's
    vector units then work along d, in place of along the samples.
    """
    table = _pack(value, shapes)
    if not by_columns:
        # A product and a sum, not an einsum: XLA fuses them with the gather.
        return jnp.sum(table[rows].astype(shares.dtype) * shares[..., None], axis=(1, 2)).astype(value.dtype)
    output = 0
    for corners, share in zip(_columns(table, rows), jnp.moveaxis(shares, 1, 0), strict=True):
        corners = jnp.split(corners.astype(shares.dtype), 4, axis=1)
        output += sum(corner * share[:, i, None] for i, corner in enumerate(corners))
    return output.astype(value.dtype)


def _columns(table: jax.Array, rows: jax.Array) -> list[jax.Array]:
    """The packed rows (Q, 4 d) that each column of rows (Q, samples) reads in the table (R, 4, d)."""
    table = table.reshape(len(table), -1)
    return [table.at[column].get(mode="promise_in_bounds") for column in rows.T]


def _sum_rows_forward(shapes: Shapes, by_columns: bool, value: jax.Array, rows: jax.Array, shares: jax.Array):
    return _sum_rows(shapes, by_columns, value, rows, shares), (value, rows, shares)


def _sum_rows_backward(shapes: Shapes, by_columns: bool, residuals, cotangent: jax.Array):
    """One gather for the shares' gradient; one scatter-add, in the shares' precision, for the value's."""
    value, rows, shares = residuals
    table, unpack = jax.vjp(lambda value: _pack(value, shapes), value.astype(shares.dtype))
    cotangent = cotangent.astype(shares.dtype)[:, None]
    if by_columns:
        columns = [jnp.sum(x.reshape(len(x), 4, -1) * cotangent, axis=-1) for x in _columns(table, rows)]
        shares_gradient = jnp.stack(columns, axis=1)
    else:
        shares_gradient = jnp.sum(table[rows] * cotangent[:, None], axis=-1)
    updates = shares[..., None] * cotangent[:, None]
    table_gradient = jnp.zeros_like(table).at[rows].add(updates, mode="promise_in_bounds")
    return unpack(table_gradient)[0].astype(value.dtype), None, shares_gradient


_sum_rows.defvjp(_sum_rows_forward, _sum_rows_backward)
