"""The clips that an evaluation shows: those of lowest and of highest J, kept while the split goes by."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from avs_jax.metrics import Statistics
from avs_jax.predict import visualize


@dataclasses.dataclass(frozen=True)
class Example:
    """A clip and what was predicted for it: what `visualize.panel` shows."""

    frames: np.ndarray  # (T,H,W,3) uint8
    truth: np.ndarray  # (T,H,W) uint8
    prediction: np.ndarray  # (T,H,W) uint8
    annotated: np.ndarray  # (T,) bool
    log_mel: np.ndarray | None  # (T,96,64) float32


class Gallery:
    """Up to `number` clips each of lowest and of highest `clip` J among those seen.

    Only clips that are among them when they come are fetched, so a split is predicted once, and few of its pictures
    leave the devices: about 2 n log(clips / n) of them, in random order.
    """

    def __init__(self, number: int):
        self.examples: dict[int, Example] = {}
        self._number = number
        self._scores = np.zeros(0)
        self._clips = np.zeros(0, np.int64)

    def add(self, seen: Statistics, fetch: Callable[[], Mapping[int, Example]]) -> None:
        """Takes the next clips, in the split's order; `fetch` gives their examples by index, if any is wanted."""
        if not self._number or not len(seen.clip_index):
            return
        per_clip = seen.per_clip()
        self._scores = np.append(self._scores, per_clip["J"])
        self._clips = np.append(self._clips, per_clip["clip_index"])
        chosen = set(_worst_and_best(self._scores, self._clips, self._number).values())
        if new := chosen & set(per_clip["clip_index"].tolist()):
            found = fetch()
            self.examples |= {index: found[index] for index in new}
        self.examples = {index: example for index, example in self.examples.items() if index in chosen}


def worst_and_best(statistics: Statistics, number: int) -> dict[str, int]:
    """Indices of up to `number` clips each of lowest and of highest `clip` J: {"worst_1": ..., "best_1": ...}."""
    per_clip = statistics.per_clip()
    return _worst_and_best(per_clip["J"], per_clip["clip_index"], number)


def _worst_and_best(scores: np.ndarray, clips: np.ndarray, number: int) -> dict[str, int]:
    # Of equal ones the first: a model that is right about many clips does not have them all fetched, one by one.
    worst = clips[np.lexsort((clips, scores))][:number].tolist()
    best = [index for index in clips[np.lexsort((clips, -scores))].tolist() if index not in worst][:number]
    return {
        **{f"worst_{place}": index for place, index in enumerate(worst, 1)},
        **{f"best_{place}": index for place, index in enumerate(best, 1)},
    }


def draw(
    examples: Mapping[int, Example], statistics: Statistics, number: int, names: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Pictures (height, width, 3) uint8 of the clips of `worst_and_best`, under the same keys."""
    per_clip = statistics.per_clip()
    scores = dict(zip(per_clip["clip_index"].tolist(), per_clip["J"], strict=True))
    pictures = {}
    for place, index in worst_and_best(statistics, number).items():
        name = f"clip {index}" if names is None else names[index]
        title = f"{place.replace('_', ' ')}: {name}, J {scores[index]:.3f}"
        pictures[place] = visualize.panel(**vars(examples[index]), num_classes=statistics.num_classes, title=title)
    return pictures
