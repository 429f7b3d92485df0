"""Checkpoints: everything that a run needs to go on as if it had never stopped. The only file that knows Orbax.

A step holds items: trees of arrays by name, each restored by itself (weights without the optimizer), and `meta`, JSON:
the data iterator, the clock, and checksums. Orbax does not notice flipped bytes in array files, so a checksum of every
array is taken on the devices before saving and compared after restoring; the JSON carries one of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as policy

log = logging.getLogger(__name__)


WEIGHTS = "weights"  # the item that a model needs; its trees are named as in `TrainState`
MULTIPLIERS = (0x9E3779B1, 0x85EBCA77)  # of the two halves of a checksum
HOST_CHUNK = 1 << 16  # words, few enough for a core's cache
DEAD = "dead"  # of converted files: what the authors' model holds and never uses


class CheckpointError(RuntimeError):
    """A step cannot be written, or none of a workdir can be restored; the message says why, step by step."""


class Checkpoints:
    """The checkpoints of one workdir.

    Args:
      folder: where they are; made when missing.
      keep_latest: how many of the newest steps are kept.
      keep_best: how many of the best are kept beside them.
      best_metric: name of the metric, of those given to `save`, that says which steps are best (higher is better).
    """

    def __init__(self, folder: pathlib.Path, keep_latest: int, keep_best: int, best_metric: str):
        self.folder = folder.absolute()

        def value(metrics):
            return metrics[best_metric]

        keep = [policy.LatestN(keep_latest)]
        if keep_best > 0:
            keep.append(policy.BestN(get_metric_fn=value, n=keep_best, keep_checkpoints_without_metrics=False))
        # With best_fn alone Orbax would delete the newest; without it the metrics of earlier processes are forgotten.
        self._options = ocp.CheckpointManagerOptions(
            best_fn=value, preservation_policy=policy.AnyPreservationPolicy(keep), cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(self.folder, options=self._options)

    def save(self, step: int, items: Mapping, meta: Mapping, metrics: Mapping[str, float] | None = None) -> None:
        """Starts saving `step`; returns once the arrays are copied, the writing goes on in the background.

        A step that is there already is left as it is: training is deterministic, so it holds the same.

        Args:
          items: {name: tree of arrays}.
          meta: what JSON can hold.
          metrics: figures of this step, among them the one that tells the best.

        Raises:
          CheckpointError: this step, or one before that was still being written, cannot be written.
        """
        if step in self._manager.all_steps():
            return
        args = _save_args(items, meta)
        with self._writing():
            self._manager.save(step, args=args, metrics=dict(metrics) if metrics else None)

    def restore(self, like: Mapping, best: bool = False) -> tuple[dict, dict] | None:
        """Restores the newest step that is whole, or the best one, or returns None where there is no step at all.

        Damaged steps are set aside (renamed to `damaged-STEP`, never deleted) with a warning.

        Args:
          like: {name: tree of `jax.ShapeDtypeStruct` with shardings}, the items to restore.
          best: first tries the step with the best metric.

        Returns:
          The items, and the meta data.

        Raises:
          CheckpointError: there are steps, and none can be restored.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        first = self._manager.best_step() if best else None
        if first is not None:
            steps = [first, *(step for step in steps if step != first)]
        failures = []
        for step in steps:
            try:
                found = self._read(step, like)
            except Exception as error:  # whatever Orbax meets in a damaged step; reported below, never hidden
                reason = _reason(error)
                log.warning("checkpoint %s is damaged, trying the one before: %s", self.folder / str(step), reason)
                failures.append((step, reason))
                continue
            self._set_aside([step for step, _ in failures])
            return found
        if failures:
            listed = "\n".join(f"  step {step}: {reason}" for step, reason in failures)
            raise CheckpointError(
                f"no checkpoint in {self.folder} can be restored:\n{listed}\nif the model or optimizer settings "
                "changed, use another --workdir; otherwise the files are damaged: remove the folder to start again"
            )
        return None

    def meta(self, step: int | None = None) -> dict:
        """Returns the meta data of a step, the newest by default, with the checksums under "arrays"."""
        step = self._manager.latest_step() if step is None else step
        return dict(self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"])

    def wait(self) -> None:
        """Returns when everything that `save` started is on disk; raises what `save` does."""
        with self._writing():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def finishing(self) -> Iterator[None]:
        """What is being saved when the work within ends, or fails, comes to its end.

        But not where another process is lost: without it a save has no end.
        """
        try:
            yield
        except jax.errors.JaxRuntimeError:
            raise
        except BaseException:
            with contextlib.suppress(CheckpointError):  # the first error is the one to report
                self.wait()
            raise
        self.wait()

    def close(self) -> None:
        """Waits, then lets go of the folder."""
        self.wait()
        self._manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Says what it means when Orbax cannot write: a full disk, above all."""
        try:
            yield
        except jax.errors.JaxRuntimeError:  # another process is lost
            raise
        except (OSError, ValueError, RuntimeError) as error:  # TensorStore's errors are ValueErrors
            raise CheckpointError(
                f"a checkpoint cannot be written to {self.folder}: {_reason(error)}; those that are finished are kept: "
                "make room, and the same command goes on from the newest"
            ) from error

    def _read(self, step: int, like: Mapping) -> tuple[dict, dict]:
        args = {name: ocp.args.StandardRestore(tree) for name, tree in like.items()}
        found = self._manager.restore(step, args=ocp.args.Composite(**args, meta=ocp.args.JsonRestore()))
        meta = dict(found["meta"])
        if meta.pop("sha256", None) != _digest(meta):
            raise ValueError("the checksum of its meta data does not fit")
        stored, items = meta.pop("arrays"), {name: found[name] for name in like}
        _compare(stored, items)
        return items, meta

    def _set_aside(self, steps: list[int]) -> None:
        if not steps:
            return
        self._manager.close()
        if jax.process_index() == 0:
            for step in steps:
                target, count = self.folder.parent / f"damaged-{step}", 1
                while target.exists():
                    target, count = self.folder.parent / f"damaged-{step}-{count}", count + 1
                (self.folder / str(step)).rename(target)
        self._manager = ocp.CheckpointManager(self.folder, options=self._options)


def read_weights(folder: str | os.PathLike) -> dict[str, dict]:
    """Reads the weights of a step as numpy arrays, whatever devices wrote them; nothing in the folder is touched.

    Args:
      folder: a run's workdir (its best step is read), a folder of steps (the newest is read), or one step.

    Returns:
      The items that are there, of "weights" and "dead", with their trees.

    Raises:
      CheckpointError: there is no finished step in the folder, or the step is damaged.
    """
    step = _step_folder(pathlib.Path(folder).absolute())
    try:
        meta = json.loads((step / "meta" / "metadata").read_text())
        if meta.pop("sha256", None) != _digest(meta):
            raise ValueError("the checksum of its meta data does not fit")
        items = {name: _read_arrays(step / name) for name in (WEIGHTS, DEAD) if (step / name).is_dir()}
        _compare(meta["arrays"], items)
    except Exception as error:  # whatever Orbax meets in a damaged step
        raise CheckpointError(f"{step} cannot be read: {_reason(error)}; give another step of {step.parent}") from error
    return items


def write_weights(folder: str | os.PathLike, items: Mapping, meta: Mapping) -> None:
    """Writes trees of numpy arrays as the one step of a new folder, which `read_weights` reads.

    Args:
      items: {"weights": {"params": ..., "model_state": ..., "ema_params": ...}}, and "dead" where there are such.
      meta: what JSON can hold.
    """
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(pathlib.Path(folder).absolute() / "0", args=_save_args(items, meta))


def _save_args(items: Mapping, meta: Mapping) -> ocp.args.Composite:
    meta = {**meta, "arrays": {name: checksums(tree) for name, tree in items.items()}}
    args = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
    return ocp.args.Composite(**args, meta=ocp.args.JsonSave({**meta, "sha256": _digest(meta)}))


def _compare(stored: Mapping[str, Mapping[str, int]], items: Mapping) -> None:
    """Raises ValueError where the checksums of restored items are not those that were stored with them."""
    for name, tree in items.items():
        actual = checksums(tree)
        wrong = sorted(key for key in stored[name].keys() | actual.keys() if stored[name].get(key) != actual.get(key))
        if wrong:
            raise ValueError(f"checksums do not fit for {len(wrong)} arrays, the first {name}{wrong[0]}")


def _step_folder(folder: pathlib.Path) -> pathlib.Path:
    if (folder / WEIGHTS).is_dir():
        return folder
    steps_folder = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder
    steps = [path for path in steps_folder.glob("[0-9]*") if path.name.isdigit() and (path / WEIGHTS).is_dir()]
    if not steps:
        raise CheckpointError(f"{folder} holds no finished checkpoint: give a run's workdir, or a step's folder")
    scores = _scores(folder / "config.json", steps)
    return max(steps, key=lambda path: (scores.get(path, -math.inf), int(path.name)))


def _scores(config: pathlib.Path, steps: Sequence[pathlib.Path]) -> dict[pathlib.Path, float]:
    """The figure of each step that was measured, by the metric that the run's configuration says is the best."""
    if not config.exists():
        return {}
    metric = json.loads(config.read_text()).get("checkpoint.best_metric")
    measured = {step: step / "metrics" / "metrics" for step in steps}
    found = {step: json.loads(path.read_text()) for step, path in measured.items() if path.exists()}
    return {step: metrics[metric] for step, metrics in found.items() if metric in metrics}


def _read_arrays(folder: pathlib.Path) -> dict:
    handler = ocp.PyTreeCheckpointHandler()
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(folder).tree)
    return handler.restore(folder, args=ocp.args.PyTreeRestore(restore_args=as_numpy))


def checksums(tree) -> dict[str, int]:
    """Returns a 64-bit checksum of every array of `tree`, taken where it is, whatever its layout over devices."""
    named = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    on_host = {name: _host_checksum(x) for name, x in named.items() if isinstance(x, np.ndarray | np.generic)}
    sums = on_host | jax.device_get(_checksums({name: x for name, x in named.items() if name not in on_host}))
    return {name: (int(high) << 32) | int(low) for name, (high, low) in sums.items()}


def _host_checksum(array: np.ndarray) -> tuple[int, int]:
    """`_checksum` of a numpy array, where it would take longer to compile than to compute."""
    flat = np.ascontiguousarray(array).reshape(-1)
    words = flat.view(np.uint32 if flat.dtype.itemsize >= 4 else f"u{flat.dtype.itemsize}")
    totals = [np.uint32(0)] * len(MULTIPLIERS)
    for start in range(0, words.size, HOST_CHUNK):
        chunk = words[start : start + HOST_CHUNK].astype(np.uint32) + np.uint32(1)
        position = np.arange(start, start + chunk.size).astype(np.uint32)
        for i, multiplier in enumerate(MULTIPLIERS):
            factor = (position * np.uint32(multiplier)) | np.uint32(1)
            totals[i] = np.sum([totals[i], np.sum(chunk * factor, dtype=np.uint32)], dtype=np.uint32)
    return tuple(map(int, totals))


@jax.jit
def _checksums(arrays: dict[str, jax.Array]) -> dict[str, tuple[jax.Array, jax.Array]]:
    return {name: _checksum(x) for name, x in arrays.items()}


def _checksum(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two sums modulo 2^32 of the array's words, each word times an odd number of its position.

    An odd factor maps every change of one word to a change of the sum, so no single flipped word goes unnoticed.
    """
    if x.dtype.itemsize == 8:  # two words an element
        words = jax.lax.bitcast_convert_type(x, jnp.uint32).reshape(-1)
    else:
        unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
        same = x.astype(jnp.uint8) if x.dtype == jnp.bool_ else jax.lax.bitcast_convert_type(x, unsigned)
        words = same.astype(jnp.uint32).reshape(-1)
    position = jax.lax.iota(jnp.uint32, words.size)

    def total(multiplier: int) -> jax.Array:
        factor = (position * jnp.uint32(multiplier)) | jnp.uint32(1)
        return jnp.sum((words + jnp.uint32(1)) * factor, dtype=jnp.uint32)

    return tuple(map(total, MULTIPLIERS))


def _reason(error: Exception) -> str:
    """Its message in one line, not too long."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _digest(meta: Mapping) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()
