"""Measurements as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

HEADER = (
    "component",
    "mode",
    "ms/frame",
    "CPU ms",
    "frames/s",
    "GFLOP/frame",
    "MFU",
    "floor ms (FLOPs, bytes)",
    "peak GB",
    "compile s (cold, warm)",
    "HLO",
)
RATIO_HEADER = ("component", "mode", "ms", "torch ms", "ratio (rounds)", "ratio of CPU time", "GFLOP a clip", "memory")


def measurements(results: Sequence[dict[str, Any]]) -> str:
    """A line for each result: time, rate, work, the share of the machine's ceiling, memory, compilation."""
    return table(HEADER, [_row(found) for found in results])


def comparisons(results: Sequence[dict[str, Any]]) -> str:
    """A line for each result with a peer; a ratio above 1 says that PyTorch takes longer, or more memory."""
    return table(RATIO_HEADER, [_ratio_row(found) for found in results if "ratio" in found])


def headline(found: dict[str, Any]) -> str:
    """What was measured, and where."""
    machine, model, best = found["machine"], found["model"], found["ceiling"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    size = " x ".join(map(str, model["image_size"]))
    return (
        f"{model['name']}, {model['backbone']}, {size}, {model['dtype']}; {machine['device']}, "
        f"{machine['threads']} threads, {versions}, {machine['date']}\n"
        f"ceiling: {best['flops_per_second'] / 1e9:.0f} GFLOP/s, {best['bytes_per_second'] / 1e9:.1f} GB/s"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, in Markdown."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    cells = [[f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _row(found: dict[str, Any]) -> tuple[str, ...]:
    made, floor = found["compilation"], found["floor_ms_per_frame"]
    return (
        found["component"],
        found["mode"],
        f"{found['ms_per_frame']:.2f}",
        f"{1e3 * found['seconds']['cpu'] / found['frames']:.2f}",
        f"{found['frames_per_second']:.2f}",
        f"{found['gflop_per_frame']:.2f}",
        f"{100 * found['mfu']:.0f} %",
        f"{floor['flops']:.2f}, {floor['bytes']:.2f}",
        f"{made['peak_bytes'] / 1e9:.2f}",
        f"{made['cold_seconds']:.1f}, {made['warm_seconds']:.1f}",
        str(made["instructions"]),
    )


def _ratio_row(found: dict[str, Any]) -> tuple[str, ...]:
    ours, theirs = found["seconds"]["wall"], found["torch"]["seconds"]["wall"]
    work = found["gflop_per_frame"] * found["frames"] / found["clips"]
    held = found.get("resident_bytes")
    return (
        found["component"],
        found["mode"],
        f"{1e3 * ours:.1f}",
        f"{1e3 * theirs:.1f}",
        _ratio(found["ratio"]["wall"]),
        _ratio(found["ratio"]["cpu"]),
        f"{work:.1f}, torch {found['torch']['gflop_per_clip']:.1f}",
        f"{held['jax'] / 1e9:.2f}, torch {held['torch'] / 1e9:.2f} GB" if held else "",
    )


def _ratio(ratio: dict[str, float]) -> str:
    return f"{ratio['value']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
