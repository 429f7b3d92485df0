"""What is timed: a whole model's forward pass, prediction and training step, and parts of AVSegFormer and VCT."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from avs_jax import backbones, metrics, models
from avs_jax.backbones.vggish import VGGish
from avs_jax.benchmark.sizes import Sizes
from avs_jax.layers import sampling
from avs_jax.layers.mask_decoder import MaskedDecoder
from avs_jax.layers.pixel_decoder import PixelDecoder
from avs_jax.models import avsegformer, vct
from avs_jax.train import optimizer
from avs_jax.train import state as states
from avs_jax.train.step import make_train_step
from data_pipeline import batch as batches

MODES = ("forward", "predict", "train")
PARTS = {
    "avsegformer": ("backbone", "vggish", "query_generator", "encoder", "sampling", "decoder", "head"),
    "vct": ("backbone", "pixel_decoder", "mask_decoder"),
    "tpavi": ("backbone", "vggish"),
}
COMPONENTS = tuple(dict.fromkeys(("model", *itertools.chain(*PARTS.values()))))


class Program(NamedTuple):
    """A pure function of arrays and what it is called with.

    Where it is a step, its first result takes the place of its first argument, whose memory it may use.
    """

    function: Callable
    arguments: tuple
    is_step: bool = False


class Component(NamedTuple):
    """A part of the model: `call(variables, inputs, train, key)`; `init` makes the variables."""

    call: Callable
    init: Callable[[], Any]
    inputs: tuple
    needs_input_gradient: bool = True


def create(config, component: str, mode: str) -> Program:
    """The program of a component in a mode, with random weights and inputs.

    Forward passes and predictions have `eval.batch_size` clips, training has `train.batch_size`. Predicting is the
    forward pass with scores and the evaluation's counts. Training a part means the gradients of its parameters and of
    those inputs that depend on any; training the whole model is the real step with all but frozen parts in training.

    Raises:
      ValueError: there is no such program; `has` tells.
    """
    if not has(config, component, mode):
        raise ValueError(f"a model {config.model.name!r} has no program {mode!r} for {component!r}")
    if component == "model":
        return {"forward": _forward, "predict": _predict, "train": _train}[mode](config)
    part = _component(config, component, Sizes.of(config, training=mode == "train"))
    variables = jax.jit(part.init)()
    if mode == "forward":
        return Program(lambda variables, inputs: part.call(variables, inputs, False, None), (variables, part.inputs))
    key = jax.random.key(1, impl="rbg") if jax.default_backend() != "cpu" else jax.random.key(1)
    return Program(functools.partial(_gradients, part), (variables, part.inputs, key))


def has(config, component: str, mode: str) -> bool:
    """Whether there is such a program: only the whole model predicts, and frozen parts are not trained."""
    if mode == "predict":
        return component == "model"
    if component == "vggish" and mode == "train":
        return not config.model.vggish.frozen
    return component in ("model", *PARTS[config.model.name])


def random_batch(config, training: bool) -> dict[str, jax.Array]:
    """A random batch on the device, of the sizes of training or evaluation."""
    sizes = Sizes.of(config, training)
    made = batches.example_batch(sizes.clips, sizes.frames, sizes.image, config.model.num_classes, seed=0)
    del made["category"]
    return jax.device_put(made)


def _forward(config) -> Program:
    model, batch = models.create(config.model), random_batch(config, training=False)

    def forward(variables, batch):
        return model.apply(variables, models.prepare(batch), train=False)

    return Program(forward, (_variables(model, config, batch), batch))


def _predict(config) -> Program:
    model, batch = models.create(config.model), random_batch(config, training=False)

    def predict(variables, batch):
        outputs = model.apply(variables, models.prepare(batch), train=False)
        return metrics.statistics(models.semantic_scores(outputs, batch["masks"].shape[2:]), batch["masks"])

    return Program(predict, (_variables(model, config, batch), batch))


def _train(config) -> Program:
    model, batch = models.create(config.model), random_batch(config, training=True)
    never = optimizer.never_trained(config.model)
    tx = optimizer.create(config.optimizer, 1000, {}, never)
    init = states.init_fn(model, tx, batch, config.seed, config.train.ema_decay > 0)
    return Program(make_train_step(model, tx, config, never), (jax.jit(init)(), batch), is_step=True)


def _variables(model: nn.Module, config, batch) -> dict:
    tx = optimizer.create(config.optimizer, 1, {}, ("backbone", "vggish", "audio_proj", "head"))  # without a state
    return jax.jit(states.init_fn(model, tx, batch, config.seed, ema=False))().variables()


def _component(config, name: str, sizes: Sizes) -> Component:
    c, dtype = config.model, jnp.dtype(config.model.dtype)
    keys = iter(jax.random.split(jax.random.key(0), 16))

    def normal(*shape: int) -> jax.Array:
        return jax.random.normal(next(keys), shape, dtype)

    n, dim, widths = sizes.num_frames, c.embed_dim, backbones.channels(c.backbone)
    if name == "backbone":
        frames = normal(n, *sizes.image, 3).astype(jnp.float32)
        return _module(backbones.create(c.backbone, dtype, c.remat), (frames,), lambda train: (train,), False)
    if name == "pixel_decoder":
        p = c.pixel_decoder
        module = PixelDecoder(dim, p.num_layers, c.num_heads, p.num_points, p.ffn_dim, c.deformable, c.remat, dtype)
        maps = [normal(n, *shape, width) for shape, width in zip((sizes.quarter, *sizes.levels), widths, strict=True)]
        return _module(module, (maps,), lambda train: ())
    if name == "mask_decoder":  # reads the maps in turn, as Mask2Former's does; VCT's own has the sound as a map too
        layers = c.decoder.num_layers, c.num_heads, c.decoder.ffn_dim, True, True, c.remat, dtype
        module = MaskedDecoder(c.num_queries, vct.num_head_classes(c), *layers)
        maps = [normal(n, *shape, dim) for shape in reversed(sizes.levels)]
        return _module(module, (maps, normal(n, *sizes.quarter, dim)), lambda train: ())
    if name == "vggish":
        vggish = VGGish(c.vggish.widths, c.vggish.hidden_dim, c.vggish.embedding_dim, dtype)
        return _module(vggish, (normal(n, 96, 64).astype(jnp.float32),), lambda train: (), False)
    if name == "query_generator":
        return _module(avsegformer.QueryGenerator(c), (normal(n, 1, dim),), lambda train: ())
    if name == "encoder":
        maps = [normal(n, *shape, dim) for shape in sizes.levels]
        return _module(avsegformer.PixelEncoder(c), (maps,), lambda train: (not train,))
    if name == "sampling":
        return _sampling(c, sizes, normal)
    queries, memory = normal(n, c.num_queries, dim), normal(n, sizes.tokens, dim)
    if name == "decoder":
        return _module(avsegformer.QueryDecoder(c), (queries, memory), lambda train: (not train,))
    finest, audio = normal(n, *sizes.quarter, dim), normal(n, 1, dim)
    return _module(DenseHead(c, sizes.levels[0]), (finest, memory, queries, audio), lambda train: ())


def _module(module: nn.Module, inputs: tuple, flags: Callable[[bool], tuple], needs_input_gradient=True) -> Component:
    def init():
        return module.init(jax.random.key(0, impl="rbg"), *inputs, *flags(False))

    def call(variables, inputs, train, key):
        rest = [name for name in variables if name != "params"]
        found = module.apply(
            variables, *inputs, *flags(train), rngs={"dropout": key} if train else {}, mutable=rest if train else False
        )
        return found[0] if train else found

    return Component(call, init, inputs, needs_input_gradient)


def _sampling(c, sizes: Sizes, normal: Callable) -> Component:
    """The sampling of one layer: every token is a query and looks about everywhere."""
    n, grid = sizes.num_frames, (c.num_heads, len(sizes.levels), c.encoder.num_points)
    locations = jax.nn.sigmoid(normal(n, sizes.tokens, *grid, 2).astype(jnp.float32))
    weights = jax.nn.softmax(normal(n, sizes.tokens, c.num_heads, grid[1] * grid[2]).astype(jnp.float32))
    value = normal(n, sizes.tokens, c.num_heads, c.embed_dim // c.num_heads)
    inputs = value, locations, weights.reshape(n, sizes.tokens, *grid)

    def call(variables, inputs, train, key):
        return sampling.sample(*inputs, sizes.levels, c.deformable)

    return Component(call, lambda: {"params": {}}, inputs)


class DenseHead(nn.Module):
    """What follows encoder and decoder in AVSegFormer: mask feature, mixer and predictor."""

    config: Any
    shape: tuple[int, int]  # of the 1/8 level

    @nn.compact
    def __call__(self, finest: jax.Array, memory: jax.Array, queries: jax.Array, audio: jax.Array) -> jax.Array:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        feature = avsegformer.MaskFeature(dtype, name="mask_feature")(finest, memory, self.shape)
        feature = avsegformer.ChannelMixer(c.num_heads, c.variant, dtype, c.reduced, name="mixer")(feature, audio)
        return avsegformer.MaskPredictor(c, name="predictor")(feature, queries)


def _gradients(part: Component, variables, inputs, key):
    """Gradients of the mean square of the outputs: in the parameters, and in the inputs where they are needed."""

    def loss(params, inputs):
        outputs = part.call({**variables, "params": params}, inputs, True, key)
        return sum(jnp.mean(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(outputs))

    wanted = (0, 1) if part.needs_input_gradient else 0
    return jax.grad(loss, wanted)(variables["params"], inputs)
