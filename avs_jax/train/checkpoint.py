"""Checkpoints: everything that a run needs to go on as if it had never stopped. The only file that knows Orbax.

A step holds items: trees of arrays by name, each restored by itself (weights without the optimizer), and `meta`, JSON:
the data iterator, the clock, and checksums. Orbax does not notice flipped bytes in array files, so a checksum of every
array is taken on the devices before saving and compared after restoring; the JSON carries one of its own.
"""

from __future__ import annotations

import hashlib
import json
import logging
import pathlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as policy

log = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """No step of a workdir can be restored; the message says why, step by step."""


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
        """
        if step in self._manager.all_steps():
            return
        meta = {**meta, "arrays": {name: checksums(tree) for name, tree in items.items()}}
        args = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        args["meta"] = ocp.args.JsonSave({**meta, "sha256": _digest(meta)})
        self._manager.save(step, args=ocp.args.Composite(**args), metrics=dict(metrics) if metrics else None)

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
                reason = " ".join(str(error).split())[:300] or type(error).__name__
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
        """Returns when everything that `save` started is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then lets go of the folder."""
        self._manager.wait_until_finished()
        self._manager.close()

    def _read(self, step: int, like: Mapping) -> tuple[dict, dict]:
        args = {name: ocp.args.StandardRestore(tree) for name, tree in like.items()}
        found = self._manager.restore(step, args=ocp.args.Composite(**args, meta=ocp.args.JsonRestore()))
        meta = dict(found["meta"])
        if meta.pop("sha256", None) != _digest(meta):
            raise ValueError("the checksum of its meta data does not fit")
        stored, items = meta.pop("arrays"), {name: found[name] for name in like}
        for name, tree in items.items():
            actual = checksums(tree)
            wrong = sorted(
                key for key in stored[name].keys() | actual.keys() if stored[name].get(key) != actual.get(key)
            )
            if wrong:
                raise ValueError(f"checksums do not fit for {len(wrong)} arrays, the first {name}{wrong[0]}")
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


def checksums(tree) -> dict[str, int]:
    """Returns a 64-bit checksum of every array of `tree`, taken where it is, whatever its layout over devices."""
    named = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    sums = jax.device_get(_checksums(named))
    return {name: (int(high) << 32) | int(low) for name, (high, low) in sums.items()}


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

    return total(0x9E3779B1), total(0x85EBCA77)


def _digest(meta: Mapping) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()
