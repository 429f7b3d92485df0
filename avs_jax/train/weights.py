"""Weights to start from: the authors' files, checkpoints of ours, ImageNet backbones, VGGish."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import jax
import numpy as np

from avs_jax import convert
from avs_jax.convert import audio_cache, parts, resizing, rules, tables
from avs_jax.train import optimizer
from avs_jax.train.state import TrainState
from data_pipeline import records

log = logging.getLogger(__name__)

Shapes = dict[str, tuple[int, ...]]


def initialise(state: TrainState, config, complete: bool = False) -> TrainState:
    """Returns `state` with the weights of `config.init_from`; logs what starts from where, and all that starts afresh.

    `init_from.model` replaces everything, `init_from.backbone` and `init_from.vggish` then their part, each a file of
    the authors' or a checkpoint of ours; a file of a whole model serves for a part of it. A Swin's tables of relative
    positions are resized to the model's windows, and a last layer of another number of classes is left from scratch
    (`avs_jax.convert.resizing`); the log names both.

    Args:
      state: as it starts from scratch.
      config: the whole configuration.
      complete: whether everything must be in the files, as it must before weights are measured.

    Raises:
      convert.ConversionError: a file does not fit the model, or something is missing that must be there; the message
        lists it all.
      BadFile, CheckpointError: a file is missing or damaged.
    """
    trees = {"params": state.params, **state.model_state}
    expected = {path: leaf.shape for path, leaf in _flat(trees).items()}
    found, origin = {}, {}
    for part in parts.PARTS:
        source = config.init_from[part]
        if source:
            arrays, notes = _read(source, config.model, part, expected)
            for note in notes:
                log.info("%s: %s", source, note)
            found |= arrays
            origin |= dict.fromkeys(arrays, source)
    afresh = [path for path in expected if path not in found]
    _report(expected, origin, afresh)
    for part in optimizer.never_trained(config.model):
        if any(_part(path) == part for path in afresh):
            log.warning("%s is frozen and starts from scratch: give --config.init_from.%s=FILE", part, part)
    if complete and afresh:
        raise convert.ConversionError(
            f"config.init_from leaves {len(afresh)} arrays from scratch: "
            f"{', '.join(_whole_modules(afresh, expected))}; give the files that hold them, "
            "--config.init_from.vggish=FILE for VGGish"
        )
    new = _placed(trees, found)
    params = new.pop("params")
    return state.replace(
        params=params,
        ema_params=jax.tree.map(lambda x: x.copy(), params) if state.ema_params else {},
        model_state=new,
    )


def require_cached_audio(params: Mapping, config) -> None:
    """Checks, where `data.cached_audio` is set, that the model's VGGish made the records' audio embeddings.

    Raises:
      audio_cache.CacheError: another one did, or none.
    """
    if config.data.cached_audio:
        found = records.open_set(config.data.records, config.task)
        audio_cache.require(params["vggish"], found.vggish, found.folder)


def _read(source: str, config_model, part: str, expected: Shapes) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays of a file or checkpoint by their paths in the model, with notes on what was resized or left out."""
    found = convert.read(source)
    if part == "model":
        if rules.is_flat(found):
            return _resized(found, expected, skip=tables.kept_apart(config_model))
        variables, notes = resizing.from_torch(found, tables.model(config_model))
        return _arrays(variables), notes
    found = parts.part_of(found, part)
    if rules.is_flat(found):
        variables = parts.under(part, rules.unflat(found))
        return _resized(rules.flat(variables), {p: s for p, s in expected.items() if _part(p) == part})
    if part == "vggish":
        return _arrays(parts.under(part, convert.vggish_from_torch(found, config_model.vggish))), []
    variables, notes = convert.backbone.to_start_from(found, config_model.backbone)
    return _arrays(parts.under(part, variables)), notes


def _resized(
    found: Mapping[str, np.ndarray], expected: Shapes, skip: Iterable[str] = ()
) -> tuple[dict[str, np.ndarray], list[str]]:
    """A checkpoint's arrays, fitted; the parts in `skip` may be missing as a whole."""
    arrays = {path: a for path, a in found.items() if not path.startswith(f"{rules.DEAD}/")}
    there = {_part(path) for path in arrays}
    return resizing.resized(arrays, {p: s for p, s in expected.items() if _part(p) in there or _part(p) not in skip})


def _arrays(variables: Mapping) -> dict[str, np.ndarray]:
    return rules.flat({name: variables.get(name, {}) for name in rules.COLLECTIONS})


def _part(path: str) -> str:
    return path.split("/")[1]


def _report(expected: Shapes, origin: Mapping[str, str], afresh: list[str]) -> None:
    for part in dict.fromkeys(map(_part, expected)):
        sources = dict.fromkeys(origin[path] for path in expected if _part(path) == part and path in origin)
        log.info("%s: %s", part, f"weights of {', '.join(sources)}" if sources else "from scratch")
    if afresh and origin:
        log.info("from scratch, %d arrays: %s", len(afresh), ", ".join(_whole_modules(afresh, expected)))


def _whole_modules(paths: list[str], among: Iterable[str]) -> list[str]:
    """The shortest list of modules and arrays that names `paths` and no other of `among`, without the collection."""
    others = {prefix for path in set(among) - set(paths) for prefix in _prefixes(path)}
    return list(dict.fromkeys(next(prefix for prefix in _prefixes(path) if prefix not in others) for path in paths))


def _prefixes(path: str) -> list[str]:
    names = path.split("/")[1:]
    return ["/".join(names[:count]) for count in range(1, len(names) + 1)]


def _flat(trees: Mapping) -> dict[str, jax.Array]:
    return {"/".join(key.key for key in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(trees)}


def _placed(trees: Mapping, found: Mapping[str, np.ndarray]) -> dict:
    """Puts host arrays in place of those of `trees`, with their types and their layouts over devices."""

    def place(path, old: jax.Array) -> jax.Array:
        new = found.get("/".join(key.key for key in path))
        if new is None:
            return old
        new = np.asarray(new, old.dtype)
        return jax.make_array_from_callback(old.shape, old.sharding, lambda part: new[part])

    return jax.tree_util.tree_map_with_path(place, dict(trees))
