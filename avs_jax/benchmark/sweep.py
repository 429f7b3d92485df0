"""Time and memory against the number of clips or frames: cost must grow linearly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from avs_jax.benchmark import compilation, programs, timing

AXES = ("batch", "frames")


def sweep(
    config, axis: str, values: Sequence[int], mode: str, seconds: float, tell: Callable = print
) -> dict[str, Any]:
    """Measures the whole model at several clips a batch ("batch") or frames a clip ("frames").

    Returns:
      {"axis", "mode", "values", "seconds", "cpu_seconds", "peak_bytes": lists, "fits": {name: `fit`}}.
    """
    points: dict[str, list] = {"seconds": [], "cpu_seconds": [], "peak_bytes": []}
    for value in values:
        program = programs.create(_at(config, axis, value), "model", mode)
        compiled = compilation.compile_once(program)
        run = compilation.runner(compiled, program)
        sample = timing.median(timing.alternate({"jax": run}, 1, seconds)["jax"])
        points["seconds"].append(sample.wall)
        points["cpu_seconds"].append(sample.cpu)
        points["peak_bytes"].append(compilation.peak_bytes(compiled))
        tell(f"{axis} {value}: {sample.wall:.3f} s, {points['peak_bytes'][-1] / 1e9:.2f} GB")
        jax.clear_caches()
    fits = {name: fit(values, found) for name, found in points.items()}
    return {"axis": axis, "mode": mode, "values": list(values), **points, "fits": fits}


def fit(x: Sequence[float], y: Sequence[float]) -> dict[str, float]:
    """The line of least squares: {"slope", "intercept", "r2"}."""
    slope, intercept = np.polyfit(x, y, 1)
    left, spread = np.subtract(y, np.polyval([slope, intercept], x)), np.subtract(y, np.mean(y))
    r2 = 1 - np.sum(left**2) / np.sum(spread**2) if np.any(spread) else 1.0
    return {"slope": float(slope), "intercept": float(intercept), "r2": float(r2)}


def plot(found: dict[str, Any]) -> str:
    """The points and lines of `sweep` as an SVG picture: seconds on the left, gigabytes on the right."""
    panels = [("seconds", "s", 1.0), ("peak_bytes", "GB", 1e-9)]
    drawn = [_panel(found, *panel, 400 * place) for place, panel in enumerate(panels)]
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="800" height="300" font-family="sans-serif" font-size="12">'
        f'<rect width="800" height="300" fill="white"/>{"".join(drawn)}</svg>\n'
    )


def _panel(found: dict[str, Any], name: str, unit: str, scale: float, left: int) -> str:
    x, y = np.array(found["values"], float), scale * np.array(found[name])
    line = found["fits"][name]
    width, height = 310 / x.max(), 210 / y.max()

    def place(a: float, b: float) -> tuple[float, float]:
        return round(left + 60 + width * a, 1), round(250 - height * b, 1)

    ends = [place(a, scale * (line["slope"] * a + line["intercept"])) for a in (x.min(), x.max())]
    marks = [place(a, b) for a, b in zip(x, y, strict=True)]
    title = f"{found['mode']}: {scale * line['slope']:.3g} {unit} each, R² {line['r2']:.4f}"
    (x0, y0), (x1, y1) = ends
    return (
        f'<text x="{left + 60}" y="20">{title}</text>'
        f'<path d="M{left + 60} 35V250H{left + 380}" fill="none" stroke="black"/>'
        f'<text x="{left + 8}" y="44">{y.max():.3g}</text><text x="{left + 8}" y="250">0 {unit}</text>'
        f'<text x="{left + 200}" y="290">{found["axis"]}</text>'
        + "".join(f'<text x="{place(a, 0)[0] - 4}" y="268">{a:g}</text>' for a in x)
        + f'<path d="M{x0} {y0}L{x1} {y1}" stroke="steelblue"/>'
        + "".join(f'<circle cx="{a}" cy="{b}" r="4" fill="steelblue"/>' for a, b in marks)
    )


def _at(config, axis: str, value: int):
    changed = config.copy_and_resolve_references().unlock()
    if axis == "batch":
        changed.train.batch_size = changed.eval.batch_size = value
    else:
        changed.data.num_frames = value
    return changed
