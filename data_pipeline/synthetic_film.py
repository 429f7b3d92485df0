"""The pictures of a synthetic clip: objects that move over a backdrop, and which object each pixel shows.

Everything is drawn in shares of the frame, so that one generator gives one scene at any size.
"""

from __future__ import annotations

import numpy as np

from data_pipeline.synthetic_kinds import Kind, draw_look, extent
from data_pipeline.synthetic_shapes import hsv, paint

_AREAS = {3: (0.09, 0.17), 4: (0.08, 0.12)}  # share of the frame that one object covers, by the number of objects
_GROWTH = 0.06  # largest change of an object's size over a clip, as a share
_CANDIDATES = 96  # random arrangements among which one is chosen


def film(
    rng: np.random.Generator, kinds: tuple[Kind, ...], num_frames: int, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Draws and paints a scene; later objects cover earlier ones.

    Args:
      kinds: what is on screen, three or four.
      num_frames: T, at least 2.
      size: (H, W) in pixels.

    Returns:
      frames (T, H, W, 3) uint8, and owner (T, H, W) int8: the object that a pixel shows, -1 for the backdrop.
    """
    height, width = size
    scales, reach = _scales(rng, kinds, size)
    paths = _paths(rng, reach, num_frames, size)
    pad = int(np.ceil(reach.max())) + 2
    canvas = np.zeros((3, num_frames, height + 2 * pad, width + 2 * pad), np.float32)
    view = (slice(None), slice(pad, pad + height), slice(pad, pad + width))
    drawn = [  # before the backdrop, whose grain takes as many random numbers as there are pixels
        (_coordinates(rng, scale, radius, path + pad), draw_look(kind, rng))
        for kind, scale, radius, path in zip(kinds, scales, reach, paths, strict=True)
    ]
    for plane, backdrop in zip(canvas, _backdrop(rng, num_frames, size), strict=True):
        plane[view] = backdrop
    owner = np.full(canvas.shape[1:], -1, np.int8)
    for number, (kind, ((x, y, corners), look)) in enumerate(zip(kinds, drawn, strict=True)):
        windows = [(t, slice(r, r + x.shape[1]), slice(c, c + x.shape[2])) for t, (r, c) in enumerate(corners)]
        patch = np.stack([canvas[:, *window] for window in windows], axis=1)
        covered = paint(patch, kind.picture(x, y, look), look, 1 / scales[number])
        for t, window in enumerate(windows):
            canvas[:, *window] = patch[:, t]
            owner[window][covered[t]] = number
    frames = np.stack([np.rint(np.clip(plane[view], 0, 255)).astype(np.uint8) for plane in canvas], axis=-1)
    return frames, owner[view].copy()


def _scales(rng, kinds, size):
    """Pixels per object unit, and the radius in pixels that holds the object at its largest, (N,) float64 each."""
    low, high = _AREAS[len(kinds)]
    shares = low + (high - low) * rng.random(len(kinds))
    area, radius = np.array([extent(kind) for kind in kinds]).T
    radius = radius * (1 + _GROWTH)
    scales = np.minimum(np.sqrt(shares * size[0] * size[1] / area), 0.45 * min(size) / radius)
    return scales, scales * radius


def _paths(rng, reach, num_frames, size):
    """Centres (N, T, 2) in pixels, y first: straight paths within the frame, on which objects overlap little.

    Of some random arrangements the first is taken in which no two centres come closer than a drawn share of the sum of
    their objects' radii; if there is none, the one that keeps them farthest apart.
    """
    n = len(reach)
    span = np.array(size, np.float64)
    margin = 0.9 * reach[:, None]
    start = margin + (span - 2 * margin) * rng.random((_CANDIDATES, n, 2))
    end = np.clip(start + (rng.random((_CANDIDATES, n, 2)) - 0.5) * 0.4 * span, margin, span - margin)
    time = np.arange(num_frames)[:, None] / (num_frames - 1)
    paths = start[:, :, None] + (end - start)[:, :, None] * time
    first, second = np.triu_indices(n, 1)
    apart = paths[:, first] - paths[:, second]
    distance = np.sqrt(apart[..., 0] ** 2 + apart[..., 1] ** 2).min(axis=2) / (reach[first] + reach[second])
    worst = distance.min(axis=1)
    enough = worst >= 0.75 + 0.25 * rng.random()
    return paths[int(np.argmax(enough if enough.any() else worst))]


def _coordinates(rng, scale, reach, path):
    """Where an object's own axes lie in the frames: it turns, grows or shrinks a little, and may be mirrored.

    Returns:
      x and y (T, S, S) float32, in object units, of the pixels of a square window about the object; corners (T, 2)
      int64, the first row and column of each window.
    """
    turn = (rng.random(2) - 0.5) * np.array([0.30, 0.16])  # tangents of half the angle: at the start, and the change
    growth = 2 * _GROWTH * (float(rng.random()) - 0.5)
    mirror = -1 if rng.random() < 0.5 else 1
    time = np.arange(len(path))[:, None, None] / (len(path) - 1)
    half = turn[0] + turn[1] * time
    cosine, sine = (1 - half**2) / (1 + half**2), 2 * half / (1 + half**2)
    zoom = scale * (1 + growth * time)
    side = 2 * int(np.ceil(reach)) + 3
    corners = np.floor(path).astype(np.int64) - side // 2
    centres = (corners + 0.5 - path)[:, :, None] + np.arange(side)  # (T, 2, S)
    dy, dx = centres[:, 0, :, None] / zoom, centres[:, 1, None, :] / zoom
    x = (mirror * (cosine * dx + sine * dy)).astype(np.float32)
    return x, (cosine * dy - sine * dx).astype(np.float32), corners


def _backdrop(rng, num_frames, size):
    """A cloudy backdrop of two muted colours that pans slowly, with a little grain: three (T, H, W) float32 planes."""
    cells = 3 + int(rng.random() * 4)
    lattice = np.floor(rng.random((cells + 3, cells + 3)) * 256)
    start, drift = 1 + rng.random(2) / 2, rng.random(2) - 0.5
    time = np.arange(num_frames) / num_frames
    rows, columns = (_interpolation(size[axis], cells, start[axis] + drift[axis] * time) for axis in (0, 1))
    cloud = (rows @ lattice @ columns.transpose(0, 2, 1)).astype(np.float32)  # sums of whole numbers: exact
    near, far = (hsv(360 * hue, 0.08 + 0.3 * depth, 0.35 + 0.5 * light) for hue, depth, light in rng.random((2, 3)))
    grain = np.floor(rng.random((size[0] + 16, size[1] + 16)) * 5 - 2).astype(np.float32)
    shifts = (rng.random((num_frames, 2)) * 16).astype(np.int64)
    grains = np.stack([grain[r : r + size[0], c : c + size[1]] for r, c in shifts])
    return [
        grains + start + cloud * (change / np.float32(2**24)) for start, change in zip(near, far - near, strict=True)
    ]


def _interpolation(length, cells, starts):
    """Weights in whole 1/256 of linear interpolation from a lattice to `length` pixels: (T, length, cells + 3)."""
    place = starts[:, None] + np.arange(length) * (cells / length)
    return np.floor(256 * np.maximum(1 - np.abs(place[..., None] - np.arange(cells + 3)), 0))
