"""Files of weights: PyTorch's, pickled numpy arrays, safetensors, our checkpoints; one way to read them all."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping

import numpy as np

from avs_jax.convert import rules, safetensors_file
from data_pipeline import torch_file
from data_pipeline.problems import BadFile

TORCH_ENDINGS = (".pth", ".pt", ".bin", ".pkl")  # .pkl: detectron2's, of numpy arrays
WRAPPERS = ("state_dict", "model")
PARALLEL_PREFIX = "module."  # what PyTorch's data parallelism puts before every name


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads a state dict: {name: array}, where possible as views of the memory-mapped file.

    Training files are unwrapped (`state_dict`, `model`, in any order and depth), and the prefix `module.` is taken off
    where every name has it. Nothing that a file names is run, and PyTorch is not needed.

    A folder is a checkpoint of ours: a run's workdir (its best step), a folder of steps (the newest), one step, or what
    `python -m avs_jax.convert` wrote. Its arrays have our own names, "params/backbone/conv1/kernel", which `from_torch`
    knows as well; of a run that averages its parameters, they are the averages.

    Raises:
      BadFile: the file is missing, damaged, of another kind, or holds something else than a state dict.
      CheckpointError: the folder holds no finished checkpoint, or a damaged one.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        return _read_checkpoint(path)
    if path.suffix == ".safetensors":
        return _without_prefix(safetensors_file.read(path))
    if path.suffix not in TORCH_ENDINGS:
        endings = ", ".join((".safetensors", *TORCH_ENDINGS))
        raise BadFile(path, f"ends in {path.suffix!r}", f"give a file of weights, named as what it is: {endings}")
    return _without_prefix(_unwrapped(path, torch_file.load(path)))


def _read_checkpoint(folder: pathlib.Path) -> dict[str, np.ndarray]:
    from avs_jax.train import checkpoint  # it brings Orbax, which takes seconds to import and reads only folders

    items = checkpoint.read_weights(folder)
    weights = items[checkpoint.WEIGHTS]
    trees = {"params": weights["ema_params"] or weights["params"], **weights["model_state"]}
    return rules.flat(trees | {rules.DEAD: items.get(checkpoint.DEAD, {})})


def _unwrapped(path: pathlib.Path, found: object) -> dict[str, np.ndarray]:
    """The state dict inside of what training scripts save with it."""
    while isinstance(found, Mapping):
        inner = next((found[name] for name in WRAPPERS if isinstance(found.get(name), Mapping)), None)
        if inner is None:
            break
        found = inner
    if not isinstance(found, Mapping) or not found:
        kind = "nothing" if isinstance(found, Mapping) else f"a {type(found).__name__}"
        raise BadFile(path, f"holds {kind}, not a state dict", "save model.state_dict() and give that file")
    others = [str(name) for name, array in found.items() if not isinstance(array, np.ndarray | np.generic)]
    if others:
        what = f"holds other things than arrays: {', '.join(others[:10])}{' ...' if len(others) > 10 else ''}"
        raise BadFile(path, what, f"save model.state_dict() alone, or under one of the names {', '.join(WRAPPERS)}")
    return {str(name): np.asarray(array) for name, array in found.items()}


def _without_prefix(state_dict: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if state_dict and all(name.startswith(PARALLEL_PREFIX) for name in state_dict):
        return {name.removeprefix(PARALLEL_PREFIX): array for name, array in state_dict.items()}
    return state_dict
