"""The training run, from a configuration to results: wiring only, every part is tested by itself."""

from __future__ import annotations

import logging
import pathlib
import time

import jax

from avs_jax import config as configuration
from avs_jax import models
from avs_jax.parallel import mesh as meshes
from avs_jax.train import hooks, optimizer
from avs_jax.train import state as states
from avs_jax.train.checkpoint import Checkpoints
from avs_jax.train.clock import Clock
from avs_jax.train.evaluator import Evaluator
from avs_jax.train.feed import Feed, example_batch
from avs_jax.train.step import make_train_step
from avs_jax.train.weights import initialise
from avs_jax.train.writers import create_writers
from data_pipeline import loader

log = logging.getLogger(__name__)


def train(config, workdir: pathlib.Path) -> bool:
    """Trains in `workdir`, going on from its newest checkpoint, and measures the best step on the test split.

    Returns:
      False if the run was asked to stop before its end (SIGTERM); its state is saved then.
    """
    configuration.claim_workdir(workdir, config)
    mesh = meshes.create()
    feed = Feed(config, mesh)
    plan = configuration.plan(config, loader.num_clips(config.data.records, config.data.train_split))
    model, never = models.create(config.model), frozen_always(config)
    tx = optimizer.create(config.optimizer, plan.total_steps, plan.unfreeze_at, never)
    init = states.init_fn(model, tx, feed.peek(), config.seed, config.train.ema_decay > 0)
    checkpoints, clock = _checkpoints(config, workdir), Clock()
    restored = checkpoints.restore(states.abstract(init, mesh))
    if restored is None:
        state = initialise(states.create(init, mesh), config)
    else:
        state, meta = restored
        feed.restore(meta["data"])
        clock.restore(meta["clock"])
        log.info("going on from step %d of %s", int(state.step), checkpoints.folder)
    start = int(state.step)
    writers = create_writers(workdir, primary=jax.process_index() == 0)
    writers.rewind(start)
    evaluator = Evaluator(config, model, mesh, writers, workdir)
    rate = optimizer.schedule(config.optimizer, plan.total_steps)
    progress = hooks.Progress(
        writers, clock, start, plan.total_steps, config.train.log_every_steps, config.train.batch_size
    )

    def save(step: int, metrics: dict | None) -> None:
        checkpoints.save(step, state, {"data": feed.state, "clock": clock.state()}, metrics)

    train_step, change = None, start
    with hooks.Preemption() as preemption:
        for step in range(start, plan.total_steps):
            if step == change:  # the first step, or one at which a part of the model starts to train
                frozen = optimizer.frozen_parts(step, plan.unfreeze_at, never)
                train_step = compile_step(make_train_step(model, tx, config, frozen), state, feed.peek())
                change = optimizer.next_change(step, plan.unfreeze_at)
            batch = next(feed)
            with jax.transfer_guard("disallow"):
                state, metrics = train_step(state, batch)
            done, last = step + 1, step + 1 == plan.total_steps
            progress(done, metrics, rate)
            scores = None
            if done % plan.eval_every == 0 or last:
                scores = evaluator(state.variables(), config.data.val_split, done)
            if scores or done % plan.checkpoint_every == 0 or preemption.requested:
                save(done, scores)
            if preemption.requested and not last:
                log.info("asked to stop: step %d is saved, the same command goes on from there", done)
                break
    progress.close()
    checkpoints.wait()
    finished = int(state.step) >= plan.total_steps
    if finished:
        best, _ = checkpoints.restore_best(states.abstract(init, mesh))
        evaluator(best.variables(), config.data.test_split, int(best.step), pictures=True)
    feed.close()
    writers.close()
    checkpoints.close()
    return finished


def evaluate(config, workdir: pathlib.Path, split: str) -> dict:
    """Measures the weights of `config.init_from.model`, or else the best step of `workdir`, on a split."""
    mesh = meshes.create()
    model = models.create(config.model)
    tx = optimizer.create(config.optimizer, 1, {}, ())
    init = states.init_fn(model, tx, example_batch(config), config.seed, config.train.ema_decay > 0)
    if config.init_from.model:
        state = initialise(states.create(init, mesh), config)
    else:
        plan = configuration.plan(config, loader.num_clips(config.data.records, config.data.train_split))
        tx = optimizer.create(config.optimizer, plan.total_steps, plan.unfreeze_at, frozen_always(config))
        init = states.init_fn(model, tx, example_batch(config), config.seed, config.train.ema_decay > 0)
        state, _ = _checkpoints(config, workdir).restore_best(states.abstract(init, mesh))
    writers = create_writers(workdir, primary=jax.process_index() == 0)
    evaluator = Evaluator(config, model, mesh, writers, workdir)
    scores = evaluator(state.variables(), split, int(state.step), pictures=True)
    writers.close()
    return scores


def frozen_always(config) -> tuple[str, ...]:
    """Returns the parts of the model that are never trained."""
    return ("vggish",) if config.model.vggish.frozen else ()


def compile_step(step_fn, state, batch):
    """Compiles a training step before the first batch needs it, and says what it takes."""
    start = time.perf_counter()
    compiled = jax.jit(step_fn, donate_argnums=0).lower(state, batch).compile()
    cost, memory = compiled.cost_analysis() or {}, compiled.memory_analysis()
    log.info(
        "training step compiled in %.1f s: %.1f GFLOP, %.2f GB of temporaries",
        time.perf_counter() - start,
        cost.get("flops", 0.0) / 1e9,
        getattr(memory, "temp_size_in_bytes", 0) / 1e9,
    )
    return compiled


def _checkpoints(config, workdir: pathlib.Path) -> Checkpoints:
    keep = config.checkpoint
    return Checkpoints(workdir / "checkpoints", keep.keep_latest, keep.keep_best, keep.best_metric)
