"""Trains a tiny model on eight CPU devices in several layouts, and prints what came of each as JSON.

    python -m tests.parallel.layouts avsegformer 1x1x1 8x1x1 1x8x1

Has to be a process of its own: the number of devices is fixed when JAX starts. In float64: where the order of sums
differs, rounding in float32 may turn a matching, and with it the rest of the run.
"""

import json
import math
import sys

import jax
import numpy as np
import optax

from avs_jax import models
from avs_jax.parallel import mesh as meshes
from avs_jax.train import state as states
from avs_jax.train.step import compile_step, make_train_step
from configs import vct_demo
from tests.integration import tiny

STEPS = 6


def avsegformer():
    """With drop path in the backbone, dropout in the encoder and the decoder."""
    config = tiny.get_config().unlock()
    config.model.backbone.update(name="pvt_v2_b0", depths=(1, 1, 1, 1), widths=(8, 8, 20, 16), drop_path=0.3)
    return config


def vct():
    """With batch norm and Gumbel noise, the matching and its random points; gradients of two parts accumulated."""
    config = vct_demo.get_config().unlock()
    config.model.backbone.update(widths=(4, 4, 8, 8))
    config.model.vggish.update(widths=(4, 4, 8, 8))
    config.model.update(embed_dim=32, num_heads=2, num_queries=6, audio_mlp_dim=16)
    config.model.pixel_decoder.update(num_layers=1, ffn_dim=32)
    config.model.query_generator.update(hidden_dim=16, num_pixels=64)
    config.model.decoder.update(num_layers=2, ffn_dim=32)
    config.loss.num_points = 64
    config.train.accumulate = 2
    return config


def batch(clips, audio):
    rng = np.random.default_rng(0)
    made = {
        "frames": rng.integers(0, 256, (clips, 1, 32, 32, 3)).astype(np.uint8),
        "masks": (rng.random((clips, 1, 32, 32)) > 0.5).astype(np.uint8),
        "frame_valid": np.ones((clips, 1), bool),
        "mask_valid": rng.random((clips, 1)) > 0.2,
        "clip_valid": np.arange(clips) != 1,
        "category": (np.arange(clips) % 23).astype(np.int32),
    }
    return made | {audio[0]: rng.normal(-1, 1, (clips, 1, *audio[1:])).astype(np.float32)}


def precise(x):
    """An array or its description in float64, where it is of floats."""
    if x.dtype != np.float32:
        return x
    return x.astype(np.float64) if isinstance(x, np.ndarray) else x.update(dtype=np.float64)


def start(shapes):
    """A state with random parameters: making them as the model does would take longer than a step's compilation."""
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        match path[-1].key:
            case "scale" | "var":
                return np.ones(leaf.shape, leaf.dtype)
            case "bias" | "mean":
                return np.zeros(leaf.shape, leaf.dtype)
        return (rng.normal(0, 1, leaf.shape) / math.sqrt(max(1, math.prod(leaf.shape[:-1])))).astype(leaf.dtype)

    shapes = jax.tree.map(precise, shapes)
    params = jax.tree_util.tree_map_with_path(draw, shapes.params)
    model_state = jax.tree_util.tree_map_with_path(draw, shapes.model_state)
    rest = {"step": np.zeros((), np.int32), "rng": np.array([3, 4], np.uint32)}
    return shapes.replace(params=params, model_state=model_state, **rest)


def train(config, sizes, arrays):
    """The losses of each step, and the parameters after the last."""
    mesh = meshes.create(dict(zip(meshes.AXES, sizes, strict=True)), jax.devices()[: math.prod(sizes)])
    model, tx = models.create(config.model), optax.sgd(1e-3)
    abstract = states.abstract(states.init_fn(model, tx, arrays, 0, ema=False), mesh)
    state = jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), start(abstract), abstract)
    on_devices = meshes.put_batch(jax.tree.map(precise, arrays), mesh)
    frozen = ("vggish",) if config.model.vggish.frozen else ()
    step, losses = compile_step(make_train_step(model, tx, config, frozen), state, on_devices), []
    for _ in range(STEPS):
        state, metrics = step(state, on_devices)
        losses.append(float(metrics["loss"]))
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(state.params))
    return losses, {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def main(name, *layouts):
    config, audio = {
        "avsegformer": (avsegformer, ("audio_embedding", 8)),  # so VGGish, which nothing trains, is not compiled
        "vct": (vct, ("log_mel", 96, 64)),
    }[name]
    config = config()
    config.model.dtype = "float64"
    arrays, found = batch(8 * config.train.accumulate, audio), {}
    first = None
    for layout in layouts:
        losses, params = train(config, tuple(map(int, layout.split("x"))), arrays)
        first = first or params
        apart = {path: float(np.abs(array - first[path]).max()) for path, array in params.items()}
        worst = max(apart, key=apart.get)
        found[layout] = {"losses": losses, "apart": apart[worst], "worst": worst}
    print(json.dumps(found))


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)
    main(*sys.argv[1:])
