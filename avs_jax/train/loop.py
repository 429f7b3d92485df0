"""The training run, from a configuration to results: wiring only, every part is tested by itself."""

from __future__ import annotations

import logging
import pathlib

import jax
import optax

from avs_jax import config as configuration
from avs_jax import models
from avs_jax.layers import sampling
from avs_jax.parallel import mesh as meshes
from avs_jax.train import hooks, optimizer
from avs_jax.train import state as states
from avs_jax.train.checkpoint import CheckpointError, Checkpoints
from avs_jax.train.clock import Clock
from avs_jax.train.evaluator import Evaluator
from avs_jax.train.feed import Feed, example_batch
from avs_jax.train.step import by_shape, make_train_step
from avs_jax.train.weights import initialise, require_cached_audio
from avs_jax.train.writers import create_writers
from data_pipeline import loader

log = logging.getLogger(__name__)


def train(config, workdir: pathlib.Path) -> bool:
    """Trains in `workdir`, going on from its newest checkpoint, then measures the best step on the test split.

    Returns:
      False if the run was asked to stop before its end (SIGTERM); its state is saved then.
    """
    mesh = meshes.create(config.mesh)
    feed = Feed(config, mesh)
    primary = jax.process_index() == 0
    configuration.claim_workdir(workdir, config, write=primary)
    clips = loader.num_clips(config.data.records, config.data.train_split, config.task)
    plan = configuration.plan(config, clips)
    model, never = models.create(config.model), optimizer.never_trained(config.model)
    if "deformable" in config.model:
        log.info("deformable attention on %s: %s", jax.default_backend(), sampling.chosen(config.model.deformable))
    tx = optimizer.create(config.optimizer, plan.total_steps, plan.unfreeze_at, never)
    init = states.init_fn(model, tx, example_batch(config), config.seed, config.train.ema_decay > 0)
    checkpoints, clock, shapes = _checkpoints(config, workdir), Clock(), states.abstract(init, mesh)
    restored, skipped = checkpoints.restore(shapes.items()), 0
    if restored is None:
        state = initialise(states.create(init, mesh), config)
    else:
        state = shapes.with_items(restored[0])
        feed.restore(restored[1]["data"])
        clock.restore(restored[1]["clock"])
        skipped = restored[1].get("skipped", 0)
        log.info("going on from step %d of %s", int(state.step), checkpoints.folder)
    require_cached_audio(state.params, config)
    start, total = int(state.step), plan.total_steps
    writers = create_writers(workdir, primary)
    writers.rewind(start)
    evaluator = Evaluator(config, model, mesh, writers, workdir)
    rate = optimizer.schedule(config.optimizer, total)
    progress = hooks.Progress(writers, clock, start, total, config.train.log_every_steps, config.train.batch_size, rate)
    stops, limit = config.train.on_nonfinite == "stop", config.train.max_skipped
    health = hooks.Health(stops, limit, skipped)
    change = start  # the first step, and later those at which a part of the model starts to train
    with hooks.Preemption() as preemption, checkpoints.finishing():
        for step in range(start, total):
            if step == change:
                frozen = optimizer.frozen_parts(step, plan.unfreeze_at, never)
                train_step = by_shape(make_train_step(model, tx, config, frozen))
                change = optimizer.next_change(step, plan.unfreeze_at)
            batch = next(feed)
            with jax.transfer_guard("disallow"):
                state, metrics = train_step(state, batch)
            done, scores, stop = step + 1, None, preemption.requested(step)
            measure = done % plan.eval_every == 0 or done == total
            save = measure or stop or done % plan.checkpoint_every == 0
            progress(done, metrics)
            health(done, metrics, settle=save)
            if measure:
                scores = evaluator(state.variables(), config.data.val_split, done)
            if save:
                meta = {"step": done, "data": feed.state, "clock": clock.state(), "skipped": health.skipped}
                checkpoints.save(done, state.items(), meta, scores)
            if stop and done < total:
                log.info("asked to stop: step %d is saved, the same command goes on from there", done)
                break
    finished = int(state.step) >= total
    if finished:
        _evaluate_best(config, checkpoints, shapes, evaluator, config.data.test_split)
    for part in (progress, feed, writers, checkpoints):
        part.close()
    return finished


def evaluate(config, workdir: pathlib.Path, split: str) -> dict[str, float]:
    """Measures the weights of `config.init_from.model`, or else the best step of `workdir`, on a split."""
    mesh, model = meshes.create(config.mesh), models.create(config.model)
    init = states.init_fn(model, optax.identity(), example_batch(config), config.seed, config.train.ema_decay > 0)
    writers = create_writers(workdir, primary=jax.process_index() == 0)
    evaluator = Evaluator(config, model, mesh, writers, workdir)
    if config.init_from.model:
        scores = evaluator(initialise(states.create(init, mesh), config, complete=True).variables(), split, 0)
    else:
        scores = _evaluate_best(config, _checkpoints(config, workdir), states.abstract(init, mesh), evaluator, split)
    writers.close()
    return scores


def _evaluate_best(config, checkpoints: Checkpoints, shapes: states.TrainState, evaluator, split: str) -> dict:
    found = checkpoints.restore({"weights": shapes.items()["weights"]}, best=True)
    if found is None:
        raise CheckpointError(f"{checkpoints.folder} holds no checkpoint: train first, or give --config.init_from=FILE")
    items, meta = found
    return evaluator(shapes.with_items(items).variables(), split, meta["step"])


def _checkpoints(config, workdir: pathlib.Path) -> Checkpoints:
    keep = config.checkpoint
    return Checkpoints(workdir / "checkpoints", keep.keep_latest, keep.keep_best, keep.best_metric)
