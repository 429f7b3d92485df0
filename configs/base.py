"""Every configuration's common ground: all keys, with the values that AVSegFormer was published with for S4.

The other files of this folder call `get_config` and state only what differs. A configuration is locked: a key that does
not exist here cannot be set, neither in a file nor on the command line (`--config.train.batch_size=4`).
"""

from __future__ import annotations

from ml_collections import ConfigDict

from avs_jax import backbones


def get_config(task: str, argument: str = "", image_size: int = 224, system: str = "avsegformer") -> ConfigDict:
    """Returns the configuration of a task: the asked system's model and loss, the rest as published for AVSegFormer.

    Args:
      task: "s4", "ms3" or "avss".
      argument: what stands after the colon of `--config configs/s4.py:resnet50,512`: a backbone and an image size,
        comma-separated, in any order, each optional.
      image_size: side of the square images, in pixels, where `argument` gives none.
      system: "avsegformer", "tpavi" or "vct".

    Raises:
      ValueError: a part of `argument` is neither a backbone nor a size.
    """
    backbone, size = parse_argument(argument, "swin_b" if system == "vct" else "pvt_v2_b5", image_size)
    model, loss = {
        "avsegformer": (_avsegformer, _avsegformer_loss),
        "tpavi": (_tpavi, _tpavi_loss),
        "vct": (_vct, _vct_loss),
    }[system]
    protocol = "vct" if system == "vct" else "avss" if task == "avss" else "avsbench"
    return ConfigDict(
        {
            "task": task,
            "seed": 123,
            # Devices along each axis; -1: all that are left. Clips are split over data and fsdp, parameters and the
            # optimizer's state over fsdp and tensor (heads and hidden features).
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
            # Weights to start from: one file or Orbax directory for everything, or for a part of the model.
            "init_from": {"model": "", "backbone": "", "vggish": ""},
            "model": model(task, _backbone(backbone, size), size),
            "loss": loss(task),
            "data": {
                "records": f"data/avsbench_{task}",
                "train_split": "train",
                "val_split": "val",
                "test_split": "test",
                "image_size": (size, size),
                "num_frames": 10 if task == "avss" else 5,
                "flip": False,  # mirror half of the training clips
                # Training: the shorter side becomes one of these times the image's; cut out, or filled up. Empty: off.
                "scales": (),
                "colour": False,  # training: brightness, contrast, saturation and hue, each frame by itself
                # Read the records' audio embeddings (`data_pipeline.convert --cache-audio`) in place of running VGGish.
                "cached_audio": False,
                "workers": 8,  # processes that read; never more than there are cores
                "threads": 2,
                "buffer": 8,
                "cache": False,
                # Clips a split of synthetic data, made where `records` has none; empty: real data.
                "synthetic": {"train": 0, "val": 0, "test": 0, "seed": 0},
            },
            "optimizer": {
                "name": "adamw",
                "learning_rate": 2e-5,
                "schedule": "constant",
                "warmup_steps": 0,
                "betas": (0.9, 0.999),
                "eps": 1e-8,
                "weight_decay": 0.01,
                "decay": "all",  # or "weights": all but norms, embeddings and biases of relative positions
                "backbone_multiplier": 1.0,  # of the learning rate
                "clip_norm": 0.0,
                # Epochs for which a part of the model is not trained (batch norm still follows the data, as published).
                "freeze": {"backbone": 0.0},
            },
            "train": {
                "batch_size": 2,
                "epochs": 30.0,
                "steps": 0,  # more than 0: in place of epochs
                "accumulate": 1,
                # Compute only the frames that carry a loss. It changes no number where frames do not interact; in a
                # ResNet's batch norm, as it trains, they do, and the statistics are then of these frames alone.
                "supervised_frames_only": False,
                # Sizes of such batches, in frames a clip; each is compiled. Of all frames where none of them suffices.
                "packed_frames": (2, 4, 6, 8) if task == "avss" else (),
                "ema_decay": 0.0,
                "log_every_steps": 50,
                # At a loss, gradient or parameter that is not finite: "stop", or "skip" the step, max_skipped times.
                "on_nonfinite": "stop",
                "max_skipped": 20,
            },
            "eval": {
                "batch_size": 2,
                # (height, width) at which scores and masks are compared; empty: the image's. VCT is measured at 224.
                "size": (224, 224) if system == "vct" and size > 224 else (),
                "annotated_frames_only": system != "tpavi",  # compute no others: they count nowhere
                "every_epochs": 1.0,
                "every_steps": 0,  # more than 0: in place of every_epochs
                "protocols": ("clip", protocol, "dataset"),
                "avsbench_batch_size": 2,
                "count_padded_frames": True,
                "audio": "",  # negative audio to evaluate beside the true one: "silence,noise:0,swap"
                "pictures": 4,
            },
            "checkpoint": {
                "every_epochs": 1.0,
                "every_steps": 0,  # more than 0: in place of every_epochs
                "keep_latest": 2,
                "keep_best": 1,
                "best_metric": f"{protocol}/J",
            },
        },
        convert_dict=True,
    ).lock()


def parse_argument(argument: str, backbone: str, size: int) -> tuple[str, int]:
    """Splits "resnet50,512" into backbone and image size; see `get_config`."""
    for part in filter(None, (part.strip() for part in (argument or "").split(","))):
        if part.isdigit():
            size = int(part)
        elif part in backbones.NAMES:
            backbone = part
        else:
            raise ValueError(
                f"configuration argument {part!r} is neither an image size nor a backbone: {', '.join(backbones.NAMES)}"
            )
    return backbone, size


def _backbone(name: str, image_size: int) -> dict:
    return {
        "name": name,
        "depths": (),  # empty depths and widths: those of the name
        "widths": (),
        "drop_path": 0.1,
        # Of a Swin. Windows of 12 tokens are published for swin_b at 384 pixels, of 7 for the others.
        "window": 12 if (name, image_size) == ("swin_b", 384) else 7,
        "flavour": "detection",  # with a norm for each map, or "classification"
    }


def _common(name: str, task: str, backbone: dict) -> dict:
    return {
        "name": name,
        "variant": "released",  # or "paper": the equations of the paper where the released code differs
        "num_classes": 71 if task == "avss" else 1,
        "dtype": "float32",  # of activations; parameters and statistics are float32 always
        # What a training step keeps for its backward pass: "none" (recomputed), "dots" (products), "blocks", "full".
        "remat": "dots",
        "backbone": backbone,
        "vggish": {"widths": (64, 128, 256, 512), "hidden_dim": 4096, "embedding_dim": 128, "frozen": True},
        "embed_dim": 256,
    }


def _avsegformer(task: str, backbone: dict, image_size: int) -> dict:
    return {
        **_common("avsegformer", task, backbone),
        "tail_dims": (128, 32),
        "num_heads": 8,
        "num_queries": 300,
        "learnable_queries": True,
        "query_generator": {"name": "attention", "num_layers": 6, "ffn_dim": 1024},
        "encoder": {"num_layers": 6, "ffn_dim": 2048, "num_points": 4, "dropout": 0.1},
        "decoder": {"num_layers": 6, "ffn_dim": 2048, "dropout": 0.1},
        "mixer": "channel",
        "mlp_dim": 2048,
        "deformable": "auto",
        "reduced": True,  # products in the order that takes the fewest operations; same numbers up to rounding
    }


def _avsegformer_loss(task: str) -> dict:
    return {
        "frames": "first" if task == "s4" else "all",
        "main": "cross_entropy" if task == "avss" else "dice",
        "main_weight": 1.0,
        "mix": "dice",
        "mix_weight": 0.1,
    }


def _tpavi(task: str, backbone: dict, image_size: int) -> dict:
    return {
        **_common("tpavi", task, backbone),
        "tail_dims": (128, 32),
        "inter_dim": 128,
        "stages": (0, 1, 2, 3),  # the backbone's stages at which frames and sound interact
        "audio_visual": True,  # pixels look at the sound
        "visual_visual": False,  # pixels look at pixels; with both, the mean
        "align_bias": task != "avss",  # of the layer that brings the sound to embed_dim
    }


def _tpavi_loss(task: str) -> dict:
    return {
        "frames": "first" if task == "s4" else "all",
        "main": "cross_entropy" if task == "avss" else "bce",
        "main_weight": 1.0,
        # The audio-visual matching loss (AVM); "form" is the task whose script it follows.
        "avm": {
            "form": task,
            "weight": 0.0 if task == "s4" else 0.5,
            "stages": (0, 1, 2, 3),
            "pooling": "average",  # or "max": how masks come to a stage's size
            "distance": "cosine" if task == "s4" else "kl",  # "cosine" (s4), "kl", "euclidean"
            "normalize": task == "s4",  # L2, before the distance
            "threshold": task == "s4",  # masks above 0.5 as 1, others as 0
            "target": "sound",  # or "closest": the frame of the most similar sound
        },
    }


def _vct(task: str, backbone: dict, image_size: int) -> dict:
    return {
        **_common("vct", task, backbone | {"drop_path": 0.3}),
        # A second backbone for pre-segmented images (data_pipeline/pre_masks.py), which the released checkpoints need.
        "pre_masks": False,
        "frozen_batch_norm": True,  # of a ResNet; False where it is trained from scratch
        "fusion": "none",  # early, of sound into the maps: "multiply", "add", "concat"
        "audio_mlp_dim": 4096,
        "num_heads": 8,
        "num_queries": 100,
        "pixel_decoder": {"num_layers": 6, "num_points": 4, "ffn_dim": 1024},
        "query_generator": {
            "name": "vision",  # or "audio": audio-centric queries (ACT)
            "prototypes": {"s4": 23, "ms3": 0, "avss": 71}[task],
            "grouping": "gumbel",  # "softmax", "none"
            "temperature": 1.0,
            "num_heads": 4,
            "hidden_dim": 256,
            "num_pixels": image_size**2 // 16,  # of the finest map: the weights belong to one size of image
        },
        "decoder": {"num_layers": 9, "ffn_dim": 2048},
        "deformable": "auto",
    }


def _vct_loss(task: str) -> dict:
    return {
        "frames": "first" if task == "s4" else "all",
        "max_targets": 16 if task == "avss" else 2,  # classes in a frame, the background among them
        "class_weight": 2.0,
        "mask_weight": 5.0,
        "dice_weight": 5.0,
        "no_object_weight": 0.1,
        "num_points": 12544,
        "oversample": 3.0,
        "importance": 0.75,
        "pac_weight": 0.0 if task == "ms3" else 1.0,  # prototype-audio contrast
        "pac_target": "labels" if task == "avss" else "category",
    }
