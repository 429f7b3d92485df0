"""What VCT's queries do in the clips that an evaluation shows: a picture of the first annotated frame of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from avs_jax.predict import query_pictures
from avs_jax.train import evaluate
from avs_jax.train.feed import options
from data_pipeline import loader

_INPUTS = ("frames", "log_mel", "pre_masks")


class QueryGallery:
    """Draws the queries of clips; compiles once. In a run of several processes all of them call it alike."""

    def __init__(self, config, model: nn.Module):
        self._config, self._step = config, query_pictures.viewing_step(model)

    def draw(self, variables: Any, split: str, chosen: Mapping[str, int]) -> dict[str, np.ndarray]:
        """Pictures (height, width, 3) uint8 of the chosen clips of a split, under the keys of `chosen`.

        chosen: of `gallery.worst_and_best`, the clips' indices.
        """
        settings = options(self._config, training=False)
        names = loader.clip_names(self._config.data.records, split, settings.task)
        clips = loader.read_clips(self._config.data.records, split, settings, chosen.values())
        classes, pictures = self._config.model.num_classes, {}
        for (place, index), clip in zip(chosen.items(), clips, strict=True):
            t = int(np.argmax(clip["mask_valid"]))
            found = self._step(variables, {name: clip[name][t] for name in _INPUTS if name in clip})
            pictures[place] = query_pictures.panel(
                clip["frames"][t],
                query_pictures.QueryView.of(evaluate.fetch(found)),
                num_classes=classes,
                sounding=query_pictures.heard(int(clip["category"]), clip["masks"][t], classes),
                title=f"{place.replace('_', ' ')}: {names[index]}, frame {t + 1}",
            )
        return pictures
