"""What an evaluation costs, end to end, in forward passes: reading, counting, figures, pictures and files included.

python -m avs_jax.benchmark.evaluation --config configs/demo.py --clips 100
python -m avs_jax.benchmark.evaluation --config configs/s4.py:pvt_v2_b5,224 --clips 20 --threads 1 --json found.json
"""

from __future__ import annotations

import json
import os
import pathlib
import tempfile

from absl import app, flags
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/, with arguments after a colon.")
CLIPS = flags.DEFINE_integer("clips", 100, "Synthetic clips to evaluate.", lower_bound=1)
ROUNDS = flags.DEFINE_integer("rounds", 3, "Evaluations, in turn with the forward passes.", lower_bound=1)
THREADS = flags.DEFINE_integer("threads", 0, "CPU cores to run on; 0: all.", lower_bound=0)
JSON = flags.DEFINE_string("json", "", "A file for all figures.")


def measure(config, clips: int, rounds: int, folder: pathlib.Path) -> dict:
    """Times the evaluation of `clips` clips, made in `folder`, against the model's forward passes on their batches.

    The batches of the forward passes lie ready on the devices, and their results are thrown away. Both sides have run
    before, so neither compiles.

    Returns:
      The seconds of each side, by the clock and of processor time, and the ratios, as `timing.ratios` has them.
    """
    import jax
    import optax

    from avs_jax import models
    from avs_jax.benchmark import run, timing
    from avs_jax.parallel import mesh as meshes
    from avs_jax.train import evaluate, feed
    from avs_jax.train import state as states
    from avs_jax.train.evaluator import Evaluator
    from avs_jax.train.writers import create_writers
    from data_pipeline import convert

    config = config.copy_and_resolve_references().unlock()
    config.data.records, config.eval.audio = str(folder / "records"), ""
    size = tuple(config.data.image_size)
    convert.synthetic(config.task, config.data.records, clips={config.data.test_split: clips}, size=size)
    mesh, model = meshes.create(config.mesh), models.create(config.model)
    init = states.init_fn(model, optax.identity(), feed.example_batch(config), config.seed, ema=False)
    variables = states.create(init, mesh).variables()
    evaluator = Evaluator(config, model, mesh, create_writers(folder, primary=True), folder)
    batches = [
        meshes.put_batch(batch, mesh)
        for batch in feed.evaluation_batches(config, config.data.test_split, evaluate.TRUE_AUDIO)
    ]

    @jax.jit
    def forward(variables, batch):
        return model.apply(variables, models.prepare(batch), train=False)

    def passes() -> None:
        for batch in batches:
            jax.block_until_ready(forward(variables, batch))

    sides = {"forward": passes, "evaluation": lambda: evaluator(variables, config.data.test_split, 0)}
    found = timing.alternate(sides, rounds, 0.0)
    ratios = timing.ratios(found["forward"], found["evaluation"])
    return {
        "machine": run.machine(),
        "clips": clips,
        "batches": len(batches),
        "seconds": {name: timing.median(samples)._asdict() for name, samples in found.items()},
        "ratio": {name: ratio._asdict() for name, ratio in ratios.items()},
    }


def main(argv: list[str]) -> None:
    """Measures, and prints the ratios."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    if THREADS.value:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: THREADS.value])
    with tempfile.TemporaryDirectory() as folder:
        found = measure(CONFIG.value, CLIPS.value, ROUNDS.value, pathlib.Path(folder))
    for name, sample in found["seconds"].items():
        print(f"{name}: {sample['wall']:.2f} s, {sample['cpu']:.2f} s of processor time")
    ratios = (f"{r['value']:.3f} ({r['low']:.3f} to {r['high']:.3f})" for r in found["ratio"].values())
    print(f"evaluation of {found['clips']} clips, in forward passes: by the clock {next(ratios)}, CPU {next(ratios)}")
    if JSON.value:
        pathlib.Path(JSON.value).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
