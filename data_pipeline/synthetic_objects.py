"""The looks of the twelve kinds of synthetic object: one function a kind, from coordinates to a picture.

Every function takes x (to the right) and y (down), float32 arrays in object units (an object reaches to about 1), and a
`Look`, and returns a `Picture`.
"""

from __future__ import annotations

import numpy as np

from data_pipeline.synthetic_shapes import (
    Look,
    Picture,
    box,
    colour,
    disc,
    ellipse,
    fold,
    hsv,
    mix,
    polygon,
    round_box,
    stripes,
    union,
)

DARK = colour(28, 24, 30)
WHITE = colour(245, 245, 240)
GLASS = colour(178, 220, 240)


def dog(x: np.ndarray, y: np.ndarray, look: Look) -> Picture:
    """A round head with hanging ears, a light snout and a patch over one eye."""
    ax = np.abs(x)
    head = ellipse(x, y, 0, 0.05, 0.70, 0.78)
    ears = ellipse(ax, y, 0.72, 0.02, 0.25, 0.58)
    pale = look.tint * np.float32(0.35) + WHITE * np.float32(0.65)
    return Picture(
        union(head, ears),
        [
            (head, look.tint),
            (ears, look.accent * np.float32(0.6)),
            (ellipse(x, y, 0.30, -0.20, 0.28, 0.30), pale),
            (ellipse(x, y, 0, 0.44, 0.40, 0.32), pale),
            (ellipse(x, y, 0, 0.28, 0.17, 0.12), DARK),
            (disc(ax, y, 0.28, -0.18, 0.12), DARK),
        ],
    )


def cat(x: np.ndarray, y: np.ndarray, look: Look) -> Picture:
    """A wide head with pointed ears, striped, with slit eyes."""
    ax = np.abs(x)
    head = ellipse(x, y, 0, 0.15, 0.84, 0.70)
    ears = polygon(ax, y, (0.15, -0.30), (0.72, -0.95), (0.84, 0.10))
    inner = polygon(ax, y, (0.36, -0.42), (0.66, -0.74), (0.72, -0.22))
    coat = mix(look.tint, look.accent * np.float32(0.5), stripes(y + ax * np.float32(0.35), 3.4, look.pattern))
    return Picture(
        union(head, ears),
        [
            (union(head, ears), coat),
            (inner, colour(235, 150, 160)),
            (ellipse(ax, y, 0.34, 0.05, 0.21, 0.16), colour(190, 225, 70)),
            (ellipse(ax, y, 0.34, 0.05, 0.06, 0.15), DARK),
            (ellipse(x, y, 0, 0.52, 0.30, 0.22), WHITE),
            (polygon(x, y, (-0.13, 0.34), (0.13, 0.34), (0, 0.50)), colour(235, 120, 135)),
        ],
    )


def lion(x: np.ndarray, y: np.ndarray, look: Look) -> Picture:
    """A face inside a scalloped mane."""
    fx, fy = fold(x, y)
    ax = np.abs(x)
    mane = union(disc(x, y, 0, 0, 0.78), disc(fx, fy, 0.78, 0.0, 0.19), disc(fx, fy, 0.575, 0.52, 0.19))
    mane_colour = mix(
        look.accent * colour(0.80, 0.55, 0.35), look.accent * np.float32(0.45), stripes(fy / (fx + 1e-3), 4.0, 0.0)
    )
    return Picture(
        mane,
        [
            (mane, mane_colour),
            (disc(x, y, 0, 0.04, 0.55), look.tint),
            (disc(ax, y, 0.22, -0.10, 0.085), DARK),
            (ellipse(x, y, 0, 0.33, 0.26, 0.20), look.tint * np.float32(0.3) + WHITE * np.float32(0.7)),
            (polygon(x, y, (-0.14, 0.14), (0.14, 0.14), (0, 0.32)), DARK),
        ],
    )


def bird(x: np.ndarray, y: np.ndarray, look: Look) -> Picture:
    """A bird in profile: beak, folded barred wing, tail."""
    body = ellipse(x, y, -0.02, 0.15, 0.62, 0.50)
    head = disc(x, y, 0.44, -0.32, 0.38)
    beak = polygon(x, y, (0.72, -0.50), (1.08, -0.26), (0.70, -0.12))
    tail = polygon(x, y, (-1.02, -0.34), (-0.40, 0.02), (-0.50, 0.36), (-1.05, 0.10))
    wing = ellipse(x, y, -0.18, 0.12, 0.40, 0.27)
    barred = mix(look.accent * np.float32(0.5), WHITE, stripes(x - y * np.float32(0.4), 4.5, look.pattern))
    return Picture(
        union(body, head, beak, tail),
        [
            (tail, look.accent * np.float32(0.6)),
            (beak, colour(250, 190, 40)),
            (union(body, head), look.tint),
            (ellipse(x, y, 0.12, 0.42, 0.36, 0.20), WHITE),
            (wing, barred),
            (disc(x, y, 0.50, -0.38, 0.13), WHITE),
            (disc(x, y, 0.52, -0.38, 0.07), DARK),
        ],
    )


def guitar(x: np.ndarray, y: np.ndarray, look: Look) -> Picture:
    """Two round bouts with a sound hole, a long neck, strings."""
    body = union(disc(x, y, 0, 0.50, 0.52), disc(x, y, 0, -0.02, 0.40))
    neck = box(x, y, 0, -0.60, 0.13, 0.40)
    head = round_box(x, y, 0, -0.94, 0.22, 0.18, 0.05)
    wood = mix(look.tint, look.accent * np.float32(0.8), stripes(x + y * np.float32(0.08), 3.5, look.pattern))
    strings = np.abs(np.abs(x) - np.float32(0.045)) - np.float32(0.014)
    return Picture(
        union(body, neck, head),
        [
            (body, wood),
            (union(neck, head), colour(70, 45, 30)),
            (disc(x, y, 0, 0.22, 0.22), look.tint * np.float32(0.4) + WHITE * np.float32(0.6)),
            (disc(x, y, 0, 0.22, 0.16), DARK),
            (box(x, y, 0, 0.72, 0.24, 0.06), DARK),
            (np.maximum(strings, box(x, y, 0, -0.12, 0.2, 0.84)), colour(225, 215, 190)),
        ],
    )


def tabla(x: np.ndarray, y: np.ndarray, look: Look) -> Picture:
    """A drum from above: a laced rim, a pale skin, a black centre."""
    fx, fy = fold(x, y)
    rim = disc(x, y, 0, 0, 0.88)
    lacing = mix(look.tint, look.accent * np.float32(0.5), stripes(fy / (fx + np.float32(1e-3)), 3.0, 0.25))
    return Picture(
        rim,
        [
            (rim, lacing),
            (disc(x, y, 0, 0, 0.66), look.tint * np.float32(0.5)),
            (disc(x, y, 0, 0, 0.61), colour(240, 226, 196)),
            (disc(x, y, 0.04, 0.03, 0.30 + 0.06 * look.pattern), DARK),
        ],
    )


def violin(x: np.ndarray, y: np.ndarray, look: Look) -> Picture:
    """A waisted body with f-holes, a thin neck and a bow laid across."""
    ax = np.abs(x)
    waist = disc(ax, y, 0.47, 0.25, 0.21)
    body = np.maximum(
        union(disc(x, y, 0, 0.55, 0.46), disc(x, y, 0, -0.02, 0.38), box(x, y, 0, 0.25, 0.34, 0.3)), -waist
    )
    neck = box(x, y, 0, -0.58, 0.11, 0.38)
    scroll = disc(x, y, 0, -0.92, 0.19)
    bow = np.maximum(np.abs(y - x * np.float32(0.35) - np.float32(0.30)) - np.float32(0.075), ax - np.float32(0.86))
    varnish = mix(look.tint, look.accent * np.float32(0.7), np.clip(y * np.float32(0.5) + np.float32(0.3), 0, 1))
    return Picture(
        union(body, neck, scroll, bow),
        [
            (body, varnish),
            (union(neck, scroll), DARK),
            (ellipse(ax, y, 0.19, 0.30, 0.045, 0.17), DARK),
            (box(x, y, 0, 0.80, 0.09, 0.14), DARK),
            (bow, colour(238, 214, 150)),
        ],
    )


def marimba(x: np.ndarray, y: np.ndarray, look: Look) -> Picture:
    """A glockenspiel: seven coloured bars, long to short, on a frame."""
    height = np.float32(0.62) - x * np.float32(0.20)
    frame = np.maximum(np.abs(x) - np.float32(0.98), np.abs(y) - height + np.float32(0.10))
    position = (x + np.float32(0.98)) * np.float32(7 / 1.96)
    number = np.clip(np.floor(position), 0, 6)
    inside = np.abs(position - number - np.float32(0.5)) * np.float32(1.96 / 7) - np.float32(0.105)
    bars = np.maximum(inside, np.abs(y) - height)
    rainbow = np.stack([hsv(360 * step / 7 + 60 * look.pattern, 0.75, 0.95) for step in range(7)], axis=1)
    return Picture(
        union(frame, bars),
        [
            (frame, look.tint),
            (bars, rainbow[:, number.astype(np.int8)]),
            (
                np.maximum(
                    inside + np.float32(0.065), np.abs(np.abs(y) - height + np.float32(0.16)) - np.float32(0.04)
                ),
                WHITE,
            ),
        ],
    )


def helicopter(x: np.ndarray, y: np.ndarray, look: Look) -> Picture:
    """A cabin with a window, a tail boom, a rotor above and skids below, in camouflage."""
    cabin = ellipse(x, y, 0.22, 0.12, 0.60, 0.44)
    boom = polygon(x, y, (-0.92, -0.10), (0.0, -0.16), (0.0, 0.20), (-0.92, 0.06))
    tail = disc(x, y, -0.88, -0.06, 0.20)
    rotor = union(box(x, y, 0.14, -0.49, 0.84, 0.09), box(x, y, 0.14, -0.38, 0.09, 0.14))
    skids = union(box(x, y, 0.22, 0.68, 0.56, 0.075), box(np.abs(x - np.float32(0.22)), y, 0.28, 0.58, 0.07, 0.14))
    blotches = stripes(x * np.float32(0.7) + np.abs(y - x * np.float32(0.6)), 2.2, look.pattern)
    return Picture(
        union(cabin, boom, tail, rotor, skids),
        [
            (union(skids, rotor), colour(52, 54, 58)),
            (union(cabin, boom, tail), mix(look.tint, look.accent * np.float32(0.55), blotches)),
            (np.maximum(ellipse(x, y, 0.40, 0.06, 0.32, 0.27), np.float32(0.22) - x), GLASS),
            (disc(x, y, -0.88, -0.06, 0.09), DARK),
        ],
    )


def ambulance(x: np.ndarray, y: np.ndarray, look: Look) -> Picture:
    """A van: white, with a red cross, a red band, a blue lamp."""
    van = round_box(x, y, -0.22, -0.02, 0.74, 0.52, 0.08)
    cab = polygon(x, y, (0.48, -0.30), (0.70, -0.30), (0.98, 0.10), (0.98, 0.50), (0.48, 0.50))
    lamp = round_box(x, y, 0.10, -0.60, 0.20, 0.12, 0.06)
    wheels = disc(np.abs(x), y, 0.54, 0.52, 0.23)
    body = union(van, cab)
    cross = union(box(x, y, -0.30, -0.12, 0.28, 0.095), box(x, y, -0.30, -0.12, 0.095, 0.28))
    red = colour(214, 34, 44)
    return Picture(
        union(body, lamp, wheels),
        [
            (lamp, colour(40, 110, 250)),
            (body, mix(look.tint, look.accent, np.clip(y, 0, 1))),
            (np.maximum(body, np.abs(y - np.float32(0.30)) - np.float32(0.075)), red),
            (cross, red),
            (polygon(x, y, (0.48, -0.20), (0.66, -0.20), (0.86, 0.12), (0.48, 0.12)), GLASS * np.float32(0.8)),
            (wheels, DARK),
            (disc(np.abs(x), y, 0.54, 0.52, 0.10), colour(170, 172, 176)),
        ],
    )


def bus(x: np.ndarray, y: np.ndarray, look: Look) -> Picture:
    """A long box with a row of windows, a pale band and two wheels."""
    body = round_box(x, y, 0, -0.04, 0.98, 0.56, 0.12)
    wheels = disc(np.abs(x), y, 0.55, 0.52, 0.21)
    spacing = np.abs(np.abs(x) - np.float32(0.42))
    windows = union(box(spacing, y, 0.21, -0.24, 0.17, 0.19), box(x, y, 0, -0.24, 0.17, 0.19))
    return Picture(
        union(body, wheels),
        [
            (body, look.tint),
            (windows, GLASS),
            (np.maximum(body, np.abs(y - np.float32(0.14)) - np.float32(0.06)), WHITE),
            (box(np.abs(x), y, 0.90, 0.30, 0.06, 0.06), colour(255, 236, 130)),
            (wheels, DARK),
            (disc(np.abs(x), y, 0.55, 0.52, 0.09), colour(170, 172, 176)),
        ],
    )


def saw(x: np.ndarray, y: np.ndarray, look: Look) -> Picture:
    """A circular blade with teeth, a bright hub and a hole."""
    fx, fy = fold(x, y)
    steel = disc(x, y, 0, 0, 0.74)
    teeth = union(
        polygon(fx, fy, (0.60, -0.20), (1.02, 0.0), (0.60, 0.20)),
        polygon(fx, fy, (0.566, 0.283), (0.72, 0.72), (0.283, 0.566)),
    )
    sheen = mix(colour(150, 156, 164), colour(205, 210, 216), stripes(x + y, 1.5, look.pattern))
    return Picture(
        union(steel, teeth),
        [
            (union(steel, teeth), sheen),
            (disc(x, y, 0, 0, 0.56), look.tint),
            (disc(x, y, 0, 0, 0.30), look.accent * np.float32(0.6)),
            (disc(x, y, 0, 0, 0.13), DARK),
        ],
    )
