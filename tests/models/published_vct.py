"""The published configurations of VCT, and images of their golden cases as model inputs."""

from __future__ import annotations

import numpy as np
from ml_collections import ConfigDict

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def published_config(task, backbone="swin_b", size=384, **changes):
    """config.model of `task` ("s4", "ms3", "avss")."""
    config = ConfigDict(
        {
            "name": "vct", "variant": "released", "num_classes": 71 if task == "avss" else 1,
            "backbone": {
                "name": backbone, "depths": (), "widths": (), "drop_path": 0.3, "window": 12 if size == 384 else 7,
                "flavour": "detection",
            },
            "pre_masks": True, "frozen_batch_norm": True,
            "vggish": {"widths": (64, 128, 256, 512), "hidden_dim": 4096, "embedding_dim": 128, "frozen": True},
            "audio_mlp_dim": 4096, "fusion": "none", "embed_dim": 256, "num_heads": 8, "num_queries": 100,
            "pixel_decoder": {"num_layers": 6, "num_points": 4, "ffn_dim": 1024},
            "query_generator": {
                "name": "vision", "prototypes": {"s4": 23, "ms3": 0, "avss": 71}[task], "grouping": "gumbel",
                "temperature": 1.0, "num_heads": 4, "hidden_dim": 256, "num_pixels": size * size // 16,
            },
            "decoder": {"num_layers": 9, "ffn_dim": 2048},
            "deformable": "auto", "remat": "none", "dtype": "float32",
        }
    )  # fmt: skip
    config.update(changes)
    return config


def image(pixels):
    """Frames (N, 3, H, W) of raw pixel values as one normalised clip (1, N, H, W, 3)."""
    return ((pixels.transpose(0, 2, 3, 1) - np.float32(MEAN)) / np.float32(STD))[None]


def nhwc(array):
    return np.asarray(array).transpose(0, 2, 3, 1)


def nchw(array):
    return np.asarray(array).transpose(0, 3, 1, 2)
