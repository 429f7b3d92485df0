"""Maps of several resolutions as one row of tokens, which deformable attention reads, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from avs_jax.layers.position import cell_centres, map_position
from avs_jax.layers.sampling import Shapes


class Levels(NamedTuple):
    """L maps of D channels of N frames, level by level, each row by row: S cells in all."""

    tokens: jax.Array  # (N, S, D)
    position: jax.Array  # (1, S, D): where a cell lies on its map, and its level's embedding
    centres: jax.Array  # (1, S, L, 2): the cell's centre, (x, y) in [0, 1], on every level the same
    shapes: Shapes  # (h, w) of each map


def join_levels(maps: Sequence[jax.Array], level_embed: jax.Array, normalize: bool) -> Levels:
    """Puts maps (N, h_l, w_l, D) one after the other.

    Args:
      maps: of one type, which the position gets as well.
      level_embed: (L, D).
      normalize: whether positions are scaled to the map's size, see `sine_position_encoding`.
    """
    shapes = tuple(feature.shape[1:3] for feature in maps)
    features = maps[0].shape[-1]
    tokens = jnp.concatenate([feature.reshape(len(feature), -1, features) for feature in maps], axis=1)
    position = [
        map_position(shape, features, normalize) + embed for shape, embed in zip(shapes, level_embed, strict=True)
    ]
    position = jnp.concatenate(position, axis=1).astype(tokens.dtype)
    centres = jnp.broadcast_to(cell_centres(shapes)[None, :, None], (1, tokens.shape[1], len(shapes), 2))
    return Levels(tokens, position, centres, shapes)


def split_levels(tokens: jax.Array, shapes: Shapes) -> list[jax.Array]:
    """Tokens (N, S, D) as the maps (N, h_l, w_l, D) of the given sizes."""
    ends = np.cumsum([height * width for height, width in shapes])
    parts = jnp.split(tokens, ends[:-1], axis=1)
    return [part.reshape(len(part), *shape, -1) for part, shape in zip(parts, shapes, strict=True)]
