"""Flat drawing by distance: the primitives from which `synthetic_objects` composes its pictures.

A shape is an array of distances in object units, negative inside, so that union is `minimum` and an edge is smooth over
one pixel. Only additions, products, comparisons and square roots are used: IEEE 754 fixes every one of them to the last
bit, so a picture is the same on any machine.
"""

from __future__ import annotations

import dataclasses

import numpy as np

OUTLINE = np.float32(0.06)  # width of the dark edge around every object, in object units
OUTLINE_SHADE = np.float32(0.28)  # of the object's own colour


@dataclasses.dataclass(frozen=True)
class Look:
    """What varies from one picture of a kind to the next.

    Attributes:
      tint: (3,) float32, RGB in 0..255, the main colour.
      accent: (3,) float32, a second colour near the first: darker or lighter.
      pattern: in 0..1, phase and density of the texture.
    """

    tint: np.ndarray
    accent: np.ndarray
    pattern: float


@dataclasses.dataclass(frozen=True)
class Picture:
    """A silhouette (distance) and the layers painted inside it, each a distance and a colour, (3,) or (3, ...)."""

    silhouette: np.ndarray
    layers: list[tuple[np.ndarray, np.ndarray]]


def disc(x: np.ndarray, y: np.ndarray, cx: float, cy: float, radius: float) -> np.ndarray:
    """Distance to a disc."""
    return np.sqrt((x - np.float32(cx)) ** 2 + (y - np.float32(cy)) ** 2) - np.float32(radius)


def ellipse(x: np.ndarray, y: np.ndarray, cx: float, cy: float, rx: float, ry: float) -> np.ndarray:
    """Distance to an ellipse with axes along x and y: exact in sign, scaled by the short radius elsewhere."""
    reach = np.sqrt(((x - np.float32(cx)) / np.float32(rx)) ** 2 + ((y - np.float32(cy)) / np.float32(ry)) ** 2)
    return (reach - np.float32(1)) * np.float32(min(rx, ry))


def box(x: np.ndarray, y: np.ndarray, cx: float, cy: float, half_width: float, half_height: float) -> np.ndarray:
    """Distance to a rectangle along x and y."""
    return np.maximum(
        np.abs(x - np.float32(cx)) - np.float32(half_width), np.abs(y - np.float32(cy)) - np.float32(half_height)
    )


def round_box(
    x: np.ndarray, y: np.ndarray, cx: float, cy: float, half_width: float, half_height: float, radius: float
) -> np.ndarray:
    """Distance to a rectangle with rounded corners."""
    over_x = np.maximum(np.abs(x - np.float32(cx)) - np.float32(half_width - radius), np.float32(0))
    over_y = np.maximum(np.abs(y - np.float32(cy)) - np.float32(half_height - radius), np.float32(0))
    return np.sqrt(over_x**2 + over_y**2) - np.float32(radius)


def polygon(x: np.ndarray, y: np.ndarray, *corners: tuple[float, float]) -> np.ndarray:
    """Distance to a convex polygon whose corners run clockwise on the screen (y points down)."""
    distance = None
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        length = np.sqrt(np.float32((bx - ax) ** 2 + (by - ay) ** 2))
        nx, ny = np.float32(by - ay) / length, np.float32(ax - bx) / length
        side = (x - np.float32(ax)) * nx + (y - np.float32(ay)) * ny
        distance = side if distance is None else np.maximum(distance, side)
    return distance


def union(*distances: np.ndarray) -> np.ndarray:
    """Distance to everything that is inside at least one of the shapes."""
    nearest = distances[0]
    for distance in distances[1:]:
        nearest = np.minimum(nearest, distance)
    return nearest


def fold(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maps the plane onto one of its eight equal sectors, 0 <= y <= x: what is drawn there appears eight times."""
    x, y = np.abs(x), np.abs(y)
    return np.maximum(x, y), np.minimum(x, y)


def stripes(u: np.ndarray, density: float, phase: float) -> np.ndarray:
    """Weight in 0..1 of the second colour of soft stripes across `u`, `density` of them per unit."""
    cycle = u * np.float32(density) + np.float32(phase)
    cycle = np.abs(cycle - np.floor(cycle) - np.float32(0.5))  # 0 .. 0.5 .. 0
    return np.clip((cycle - np.float32(0.25)) * np.float32(8) + np.float32(0.5), 0, 1)


def mix(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Colours (3, ...): `first` (3,) where weight (...) is 0, `second` (3,) where it is 1."""
    return np.stack([a + weight * (b - a) for a, b in zip(first, second, strict=True)])


def colour(red: float, green: float, blue: float) -> np.ndarray:
    """An RGB colour, (3,) float32 in 0..255."""
    return np.array((red, green, blue), np.float32)


def hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    """An RGB colour, (3,) float32 in 0..255, from a hue in degrees and two shares in 0..1."""
    sector = (hue / 60.0) % 6.0
    ramps = [abs((sector + shift) % 6.0 - 3.0) - 1.0 for shift in (0.0, 4.0, 2.0)]
    shares = [1.0 - saturation + saturation * min(max(ramp, 0.0), 1.0) for ramp in ramps]
    return np.array([255.0 * value * share for share in shares], np.float32)


def paint(canvas: np.ndarray, picture: Picture, look: Look, pixel: float) -> np.ndarray:
    """Paints a picture onto a patch, with edges smooth over one pixel.

    Args:
      canvas: (3, ...) float32, changed in place: colour planes, which NumPy blends several times as fast as pixels.
      picture: distances of shape (...).
      look: its tint gives the outline's colour.
      pixel: the size of a pixel in object units.

    Returns:
      (...) bool, the pixels whose centre the object covers.
    """
    per_pixel = np.float32(1.0 / pixel)
    outer = picture.silhouette - OUTLINE
    for distance, fill in [(outer, look.tint * OUTLINE_SHADE), *picture.layers]:
        weight = np.clip(np.float32(0.5) - distance * per_pixel, 0, 1)
        for plane, value in zip(canvas, fill, strict=True):
            plane += weight * (value - plane)
    return outer <= 0
