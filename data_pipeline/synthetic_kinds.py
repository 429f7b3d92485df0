"""The twelve kinds of synthetic object: what each is called in the published data sets, how it looks, how it sounds."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from data_pipeline import synthetic_objects as objects
from data_pipeline import synthetic_sounds as sounds
from data_pipeline.synthetic_shapes import OUTLINE, Look, Picture, colour, hsv


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of object.

    Attributes:
      name: its AVSS class.
      category: its S4 category.
      hue, saturation, value: lowest and highest of its main colour, degrees and shares in 0..1. Kinds that are close in
        colour differ in shape and texture.
      picture: (x, y, look) -> Picture, see synthetic_objects.
      voice: (rng, n) -> (n,) float32, see synthetic_sounds.
      level: the root mean square of the voice, by which all are brought to one loudness.
    """

    name: str
    category: str
    hue: tuple[float, float]
    saturation: tuple[float, float]
    value: tuple[float, float]
    picture: Callable[[np.ndarray, np.ndarray, Look], Picture]
    voice: Callable[[np.random.Generator, int], np.ndarray]
    level: float


KINDS = (
    Kind("dog", "dog_barking", (18, 32), (0.50, 0.65), (0.42, 0.58), objects.dog, sounds.dog, 0.17),
    Kind("cat", "cat_meowing", (200, 260), (0.04, 0.14), (0.55, 0.74), objects.cat, sounds.cat, 0.32),
    Kind("lion", "lions_roaring", (38, 50), (0.70, 0.85), (0.85, 0.98), objects.lion, sounds.lion, 0.23),
    Kind("bird", "mynah_bird_singing", (180, 202), (0.60, 0.85), (0.72, 0.95), objects.bird, sounds.bird, 0.43),
    Kind(
        "guitar", "playing_acoustic_guitar", (110, 150), (0.55, 0.80), (0.50, 0.75), objects.guitar, sounds.guitar, 0.23
    ),
    Kind("tabla", "playing_tabla", (318, 340), (0.55, 0.75), (0.60, 0.85), objects.tabla, sounds.tabla, 0.23),
    Kind("violin", "playing_violin", (352, 368), (0.75, 0.92), (0.60, 0.82), objects.violin, sounds.violin, 0.50),
    Kind(
        "marimba", "playing_glockenspiel", (262, 285), (0.45, 0.65), (0.45, 0.65), objects.marimba, sounds.marimba, 0.31
    ),
    Kind("helicopter", "helicopter", (70, 92), (0.40, 0.60), (0.42, 0.60), objects.helicopter, sounds.helicopter, 0.27),
    Kind(
        "emergency-car",
        "ambulance_siren",
        (350, 365),
        (0.02, 0.08),
        (0.88, 0.98),
        objects.ambulance,
        sounds.siren,
        0.74,
    ),
    Kind("bus", "driving_buses", (218, 240), (0.70, 0.90), (0.60, 0.88), objects.bus, sounds.bus, 0.32),
    Kind("saw", "chainsawing_trees", (12, 24), (0.88, 1.00), (0.90, 1.00), objects.saw, sounds.saw, 0.28),
)


def draw_look(kind: Kind, rng: np.random.Generator) -> Look:
    """Draws the colours and the texture of one object."""
    ranges = (kind.hue, kind.saturation, kind.value)
    tint = hsv(*(low + (high - low) * share for (low, high), share in zip(ranges, rng.random(3).tolist(), strict=True)))
    brightness, pattern = rng.random(2).tolist()
    return Look(tint, np.minimum(tint * np.float32(0.85 + 0.3 * brightness), np.float32(255)), pattern)


@functools.cache
def extent(kind: Kind) -> tuple[float, float]:
    """Area of a kind's outlined silhouette, in square object units, and the radius that holds it."""
    axis = (np.arange(288, dtype=np.float32) - np.float32(143.5)) / np.float32(104)
    x, y = np.meshgrid(axis, axis)
    grey = colour(128, 128, 128)
    covered = kind.picture(x, y, Look(grey, grey, 0.5)).silhouette <= OUTLINE
    return float(covered.sum()) / 104.0**2, float(np.sqrt((x * x + y * y)[covered].max()))
