"""Pictures of what VCT's queries do in a frame: the pixels each claims, its mask after every layer, what is heard."""

from __future__ import annotations

import colorsys
import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from avs_jax import models
from avs_jax.losses.vct import S4_PROTOTYPES
from avs_jax.predict import visualize
from data_pipeline import labels
from data_pipeline.batch import IGNORE

_SHOWN = 5  # queries
_GAP, _LABELS, _TEXT = 4, 132, 16  # pixels: between tiles, for the names of rows, for a line of text
_BAR, _COLUMN, _NAME = 60, 284, 186  # pixels of a bar at 1, of a column of bars, of its names
_ROWS = 24  # bars in a column


@dataclasses.dataclass(frozen=True)
class QueryView:
    """A frame's queries, those shown in the order of their confidence; h, w at a quarter of the frame's size."""

    groups: np.ndarray | None  # (h, w) the query that each pixel goes to; None without grouping
    queries: np.ndarray  # (K,) numbers of the queries shown
    classes: np.ndarray  # (K,) their likeliest class, 0 for the background
    confidence: np.ndarray  # (K,) its probability
    masks: np.ndarray  # (L, K, h, w) probabilities before the first layer and after each
    similarity: np.ndarray | None  # (prototypes,) probability that each is heard; None without prototypes

    @classmethod
    def of(cls, found: Mapping[str, np.ndarray]) -> QueryView:
        """What a viewing step found, on the host."""
        return cls(**{field.name: found.get(field.name) for field in dataclasses.fields(cls)})


def viewing_step(model: nn.Module) -> Callable[[Any, Mapping[str, jax.Array]], dict[str, jax.Array]]:
    """Returns the jitted step (variables, inputs of one frame without axes of clip and frame) -> a view's entries.

    Args:
      model: a VCT. The inputs: frames (H, W, 3) uint8, log_mel (96, 64), and pre_masks where the model takes them.
    """

    @jax.jit
    def step(variables: Any, frame: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        inputs = models.prepare({name: x[None, None] for name, x in frame.items()})
        outputs, sown = model.apply(variables, inputs, train=False, mutable=["intermediates"])
        classes = jax.nn.softmax(outputs.class_logits[-1, 0, 0], -1)[:, :-1]
        confidence, queries = jax.lax.top_k(jnp.max(classes, -1), min(_SHOWN, len(classes)))
        masks = jax.nn.sigmoid(outputs.mask_logits[:, 0, 0, queries])
        found = {"queries": queries, "classes": jnp.argmax(classes, -1)[queries], "confidence": confidence}
        found["masks"] = masks
        grouping = sown["intermediates"].get("query_generator", {}).get("grouping")
        if grouping is not None:
            found["groups"] = jnp.argmax(grouping["assignment"][0][0], 0).reshape(masks.shape[-2:])
        if outputs.prototype_logits is not None:
            found["similarity"] = jax.nn.sigmoid(outputs.prototype_logits[0, 0])
        return found

    return step


def panel(
    frame: np.ndarray,
    view: QueryView,
    *,
    num_classes: int = 1,
    sounding: Collection[int] = (),
    title: str = "",
    tile_width: int = 112,
) -> np.ndarray:
    """One picture of a frame's queries: the frame and its groups; a row a query, a column a prediction; the prototypes.

    Args:
      frame: (H, W, 3) uint8.
      view: what a viewing step found.
      num_classes: of the model; 1 means background and object.
      sounding: numbers of the prototypes that are truly heard, drawn in another colour.
      title: a line of text above.
      tile_width: pixels of a frame in the picture.

    Returns:
      (height, width, 3) uint8.
    """
    tile = (max(1, round(tile_width * frame.shape[0] / frame.shape[1])), tile_width)
    small = visualize.resize(frame, tile, Image.Resampling.BILINEAR)
    colours = query_colours(1 + max(view.queries.max(), 0 if view.groups is None else view.groups.max()))
    first = ("frame", [small])
    if view.groups is not None:
        groups = visualize.resize(view.groups.astype(np.int32), tile, Image.Resampling.NEAREST)
        claimed = grouping_map(small, groups, colours)
        first = (f"frame, pixels: claimed by {len(np.unique(view.groups))}", [small, claimed])
    rows = {}
    for k, query in enumerate(view.queries):
        name = f"query {query}: {_class_name(view.classes[k], num_classes)} {view.confidence[k]:.2f}"
        masks = [visualize.resize(mask, tile, Image.Resampling.BILINEAR) for mask in view.masks[:, k]]
        rows[name] = [mask_map(small, mask, colours[query]) for mask in masks]
    picture = _compose(first, rows, title)
    if view.similarity is None:
        return picture
    return _below(picture, similarity_chart(view.similarity, sounding))


def query_colours(number: int) -> np.ndarray:
    """A colour for each query, (number, 3) uint8: hues by the golden angle, so that no two near ones are alike."""
    hues = np.arange(number) * 0.381966 % 1
    return np.array([np.rint(255 * np.array(colorsys.hsv_to_rgb(hue, 0.85, 1.0))) for hue in hues], np.uint8)


def grouping_map(frame: np.ndarray, groups: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """The frame (H, W, 3) with each pixel in the colour of the query that it goes to, `groups` (H, W)."""
    return np.rint(0.35 * frame + 0.65 * colours[groups]).astype(np.uint8)


def mask_map(frame: np.ndarray, mask: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """The frame (H, W, 3), dark where the mask's probability (H, W) is low, with an outline at one half."""
    lit = np.rint(frame * (0.15 + 0.85 * mask[..., None])).astype(np.uint8)
    return np.where(visualize.outline(mask >= 0.5)[..., None], colour, lit).astype(np.uint8)


def similarity_chart(similarity: np.ndarray, sounding: Collection[int] = ()) -> np.ndarray:
    """A bar for each prototype, by name, its probability (prototypes,) beside it; those truly heard are red."""
    names = prototype_names(len(similarity))
    columns = -(-len(names) // _ROWS)
    canvas = Image.new("RGB", (columns * _COLUMN, _TEXT * (1 + min(_ROWS, len(names)))), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(11)
    draw.text((_GAP, 1), "how much the sound is like each prototype", fill="black", font=font)
    for i, (name, value) in enumerate(zip(names, similarity, strict=True)):
        x, y = i // _ROWS * _COLUMN, _TEXT * (1 + i % _ROWS)
        colour = visualize.SOUNDING if i in sounding else visualize.GREY
        draw.text((x + _GAP, y + 1), name, fill=colour if i in sounding else "black", font=font)
        draw.rectangle((x + _NAME, y + 3, x + _NAME + round(_BAR * float(value)), y + 12), fill=colour)
        draw.text((x + _NAME + _BAR + _GAP, y + 1), f"{value:.2f}", fill="black", font=font)
    return np.asarray(canvas)


def prototype_names(number: int) -> list[str]:
    """What the prototypes stand for: S4's categories in the authors' order, AVSS's classes, else their numbers."""
    if number == len(S4_PROTOTYPES):
        return [name for _, name in sorted(zip(S4_PROTOTYPES, labels.S4_CATEGORIES, strict=True))]
    return (
        list(labels.AVSS_CLASSES) if number == len(labels.AVSS_CLASSES) else [f"prototype {i}" for i in range(number)]
    )


def heard(category: int, truth: np.ndarray, num_classes: int) -> set[int]:
    """The prototypes that a frame truly sounds like: S4's of its clip's `category`, or the classes of its `truth`."""
    if num_classes > 1:
        return set(np.unique(truth).tolist()) - {IGNORE}
    return {S4_PROTOTYPES[category]} if category >= 0 else set()


def _class_name(index: int, num_classes: int) -> str:
    names: Sequence[str] = labels.AVSS_CLASSES if num_classes > 1 else ("background", "object")
    return names[index]


def _compose(first: tuple[str, list[np.ndarray]], rows: Mapping[str, list[np.ndarray]], title: str) -> np.ndarray:
    """A first row under a title, and rows of a tile for each prediction under their numbers; each after its name."""
    height, width = first[1][0].shape[:2]
    columns = max(2, *map(len, rows.values()))
    size = (_LABELS + columns * (width + _GAP), 2 * _TEXT + (1 + len(rows)) * (height + _GAP))
    canvas = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(11)
    draw.text((_GAP, 1), title, fill="black", font=font)
    for column in range(columns):
        text = "before layer 1" if column == 0 else f"after layer {column}"
        draw.text((_LABELS + column * (width + _GAP), _TEXT + height + _GAP), text, fill="black", font=font)
    for row, (name, tiles) in enumerate([first, *rows.items()]):
        y = _TEXT * (1 + bool(row)) + row * (height + _GAP)
        for line, text in enumerate(name.split(": ")):
            draw.text((_GAP, y + height // 2 - _TEXT + line * _TEXT), text, fill="black", font=font)
        for column, tile in enumerate(tiles):
            canvas.paste(Image.fromarray(tile), (_LABELS + column * (width + _GAP), y))
    return np.asarray(canvas)


def _below(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    width = max(upper.shape[1], lower.shape[1])
    wide = [np.pad(x, ((0, 0), (0, width - x.shape[1]), (0, 0)), constant_values=255) for x in (upper, lower)]
    return np.concatenate(wide)
