"""What a conversion writes: whole or not at all, and nothing that was there before is lost."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Mapping

import numpy as np

from avs_jax.convert import rules
from avs_jax.train import checkpoint
from data_pipeline import torch_file

REPORT = "report.tsv"  # also the sign of a folder that a conversion wrote


class OutputError(ValueError):
    """What a conversion would write is in the way of something else."""


def check_folder(folder: pathlib.Path, overwrite: bool) -> None:
    """Raises OutputError where `write_checkpoint` would: the folder is in the way."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"--out {folder} is a file: give a folder that does not exist yet")
    is_ours = (folder / REPORT).is_file()
    if folder.exists() and any(folder.iterdir()) and not (overwrite and is_ours):
        mend = "add --overwrite to replace that conversion, or give" if is_ours else "it is no conversion of ours; give"
        raise OutputError(f"--out {folder} is not empty: {mend} another folder")


def check_file(path: pathlib.Path, overwrite: bool) -> None:
    """Raises OutputError where `write_torch` would: the file exists, or its folder does not."""
    if path.is_dir() or (path.exists() and not overwrite):
        raise OutputError(f"--to-torch {path} exists: give another name, or --overwrite to replace a file")
    if not path.parent.is_dir():
        raise OutputError(f"--to-torch {path}: its folder does not exist; make it first")


def write_checkpoint(folder: pathlib.Path, variables: Mapping, meta: Mapping, report: str, overwrite: bool) -> None:
    """Writes variables as a checkpoint that `avs_jax.convert.read` reads, with the report beside it.

    Args:
      folder: made; one that is there and not empty is replaced only if `overwrite` and if a conversion wrote it.
      variables: {"params": tree, "batch_stats": tree, "dead": {name: array}}.
      meta: what JSON can hold.
      report: the text of `report.tsv`.

    Raises:
      OutputError: the folder is in the way; it is left as it is.
    """
    check_folder(folder, overwrite)
    statistics = {"batch_stats": variables["batch_stats"]} if variables.get("batch_stats") else {}
    weights = {"params": variables["params"], "model_state": statistics, "ema_params": {}}
    items = {checkpoint.WEIGHTS: weights}
    if variables.get(rules.DEAD):
        items[checkpoint.DEAD] = variables[rules.DEAD]
    partial, old = (folder.with_name(f".{folder.name}.{state}") for state in ("partial", "old"))
    for left_over in (partial, old):
        shutil.rmtree(left_over, ignore_errors=True)
    checkpoint.write_weights(partial, items, meta)
    (partial / REPORT).write_text(report)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def write_torch(path: pathlib.Path, state_dict: Mapping[str, np.ndarray], overwrite: bool) -> None:
    """Writes a state dict for PyTorch.

    Raises:
      OutputError: the file exists, and `overwrite` is not set, or its folder does not exist.
    """
    check_file(path, overwrite)
    torch_file.save(path, dict(state_dict))
