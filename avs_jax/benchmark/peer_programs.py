"""The programs of `programs` in PyTorch, as callables that block until they are done."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from avs_jax.backbones import channels
from avs_jax.benchmark import peers
from avs_jax.benchmark.sizes import Sizes

IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Options(NamedTuple):
    """How PyTorch runs: `dtype` of autocast, torch.compile or eager, "cpu" or "cuda"."""

    dtype: str = "float32"
    compile: bool = False
    device: str = "cpu"


class Peer(NamedTuple):
    """A program: `run` does one round of it, `flops` counts one."""

    run: Callable[[], None]
    flops: Callable[[], float]


def create(config, component: str, mode: str, options: Options) -> Peer:
    """The peer of `programs.create(config, component, mode)`, with random weights and inputs.

    All frames of a training batch go through the model, as in the published code, also where only some carry a loss.

    Raises:
      ValueError: it has none.
    """
    if component == "model" and config.model.name != "avsegformer":
        raise ValueError(f"a whole {config.model.name!r} has no PyTorch peer, only its parts have: set --components")
    if options.dtype == "float32":
        torch.set_float32_matmul_precision("high")  # as XLA does on a GPU; no difference on a CPU
    training = mode == "train"
    sizes = Sizes.of(config, training, supervised_only=False)
    with torch.device(options.device):
        module = _module(config.model, component, sizes).train(training)
        if not training:
            module.requires_grad_(False)
        inputs = _inputs(config.model, component, sizes)
        masks = torch.randint(0, 2, (sizes.num_frames, *sizes.image))
    forward = torch.compile(module) if options.compile else module
    cast = _autocast(options)
    if mode == "forward":
        body = _forward(forward, inputs, cast)
    elif mode == "predict":
        body = _predict(forward, inputs, masks, cast)
    elif component == "model":
        body = _train_step(module, forward, inputs, masks, config, sizes, cast)
    else:
        body = _gradients(module, forward, inputs, cast)

    def run() -> None:
        body()
        if options.device == "cuda":
            torch.cuda.synchronize()

    return Peer(run, lambda: _count(body))


def _module(config, component: str, sizes: Sizes) -> nn.Module:
    match component:
        case "model":
            return peers.AVSegFormer(config, sizes)
        case "backbone":
            return peers.Backbone(config.backbone, sizes.image)
        case "vggish":
            return peers.VGGish(config.vggish)
        case "query_generator":
            return peers.QueryGenerator(config)
        case "encoder":
            return peers.Encoder(config, sizes.levels)
        case "sampling":
            return peers.Sampling(sizes.levels)
        case "decoder":
            return peers.Decoder(config, config.decoder)
        case "head":
            return peers.Head(config, sizes.levels[0])
        case "pixel_decoder":
            return peers.PixelDecoder(config)
        case "mask_decoder":
            return peers.MaskDecoder(config)
    raise ValueError(f"no component is named {component!r}")


def _inputs(config, component: str, sizes: Sizes) -> tuple:
    n, dim, heads = sizes.num_frames, config.embed_dim, config.num_heads

    def tokens(count: int) -> torch.Tensor:
        return torch.randn(n, count, dim)

    def maps(shapes: Sequence[tuple[int, int]], widths: Sequence[int]) -> list[torch.Tensor]:
        return [torch.randn(n, width, *shape) for shape, width in zip(shapes, widths, strict=True)]

    match component:
        case "model":
            return torch.randint(0, 256, (n, 3, *sizes.image), dtype=torch.uint8), torch.randn(n, 96, 64)
        case "backbone":
            return (torch.randn(n, 3, *sizes.image),)
        case "vggish":
            return (torch.randn(n, 96, 64),)
        case "query_generator":
            return (tokens(1),)
        case "encoder":
            return (maps(sizes.levels, [dim] * len(sizes.levels)),)
        case "sampling":
            points = (n, sizes.tokens, heads, len(sizes.levels), config.encoder.num_points)
            value = torch.randn(n, sizes.tokens, heads, dim // heads)
            return value, torch.rand(*points, 2), torch.rand(points)
        case "decoder":
            return tokens(config.num_queries), tokens(sizes.tokens)
        case "head":
            finest = torch.randn(n, dim, *sizes.quarter)
            return finest, tokens(sizes.tokens), tokens(config.num_queries), tokens(1)
        case "pixel_decoder":
            return (maps((sizes.quarter, *sizes.levels), channels(config.backbone)),)
        case "mask_decoder":
            shapes = tuple(reversed(sizes.levels))
            return maps(shapes, [dim] * len(shapes)), torch.randn(n, dim, *sizes.quarter)
    raise ValueError(f"no component is named {component!r}")


def _autocast(options: Options) -> Callable[[], contextlib.AbstractContextManager]:
    return lambda: torch.autocast(options.device, DTYPES[options.dtype], enabled=options.dtype != "float32")


def _normalise(inputs: tuple) -> tuple:
    """uint8 frames become normalised float32, as `avs_jax.models.prepare` has it."""
    frames, *rest = inputs
    if not isinstance(frames, torch.Tensor) or frames.dtype != torch.uint8:
        return inputs
    mean, std = (frames.new_tensor(x, dtype=torch.float32).view(3, 1, 1) for x in (IMAGE_MEAN, IMAGE_STD))
    return ((frames / 255 - mean) / std, *rest)


def _forward(forward: Callable, inputs: tuple, cast: Callable) -> Callable[[], None]:
    def run() -> None:
        with torch.inference_mode(), cast():
            forward(*_normalise(inputs))

    return run


def _predict(forward: Callable, inputs: tuple, masks: torch.Tensor, cast: Callable) -> Callable[[], None]:
    def run() -> None:
        with torch.inference_mode(), cast():
            logits = forward(*_normalise(inputs)).float()
            if logits.shape[1] == 1:
                bins = (logits[:, 0].sigmoid() * 255).long() + 256 * masks
                for frame in bins:
                    torch.bincount(frame.flatten(), minlength=512)
            else:
                pairs = masks * logits.shape[1] + logits.softmax(1).argmax(1)
                for frame in pairs:
                    torch.bincount(frame.flatten(), minlength=logits.shape[1] ** 2)

    return run


def _train_step(
    module: nn.Module, forward: Callable, inputs: tuple, masks: torch.Tensor, config, sizes: Sizes, cast: Callable
) -> Callable[[], None]:
    """Forward, dice loss (cross entropy for several classes) on the frames that carry one, backward, AdamW."""
    o = config.optimizer
    optimizer = torch.optim.AdamW(
        [p for p in module.parameters() if p.requires_grad], o.learning_rate, tuple(o.betas), o.eps, o.weight_decay
    )
    first = slice(None, None, sizes.frames) if config.loss.frames == "first" else slice(None)

    def run() -> None:
        with cast():
            logits = forward(*_normalise(inputs))
        loss = _loss(logits[first].float(), masks[first])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return run


def _loss(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    if logits.shape[1] > 1:
        return F.cross_entropy(logits, masks)
    scores, masks = logits[:, 0].sigmoid().flatten(1), masks.float().flatten(1)
    return (1 - 2 * (scores * masks).sum(1) / (scores.square().sum(1) + masks.square().sum(1) + 2e-3)).mean()


def _gradients(module: nn.Module, forward: Callable, inputs: tuple, cast: Callable) -> Callable[[], None]:
    """Gradients of the mean square of the outputs, also in the inputs but for frames and sound."""
    leaves = list(module.parameters())
    if not isinstance(module, (peers.Backbone, peers.VGGish)):
        leaves += [tensor.requires_grad_() for tensor in _tensors(inputs)]

    def run() -> None:
        with cast():
            outputs = forward(*inputs)
        loss = sum(x.float().square().mean() for x in _tensors([outputs]))
        for leaf in leaves:
            leaf.grad = None
        loss.backward()

    return run


def _tensors(tree: Iterable) -> list[torch.Tensor]:
    return [leaf for x in tree for leaf in ([x] if isinstance(x, torch.Tensor) else _tensors(x))]


def _count(body: Callable[[], None]) -> float:
    with FlopCounterMode(display=False) as counter:
        body()
    return float(counter.get_total_flops())
