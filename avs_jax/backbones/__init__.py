"""Image backbones: frames (N, H, W, 3) to four feature maps, at 1/4, 1/8, 1/16 and 1/32 of the image, in this order."""

from __future__ import annotations

import flax.linen as nn
from flax.typing import Dtype

from avs_jax.backbones import pvt_v2, resnet, swin

NAMES = ("resnet50", *pvt_v2.ARCHITECTURES, *swin.ARCHITECTURES)


def create(config, dtype: Dtype | str = "float32", remat: str = "dots") -> nn.Module:
    """Builds the backbone of `config.model.backbone`.

    Args:
      config: `name`, one of NAMES; `depths` and `widths`, empty for those of the name (a ResNet's widths are the planes
        of its four stages, otherwise embedding dimensions); `drop_path`, the rate of a transformer's last block; for a
        Swin `window`, the side of its windows in tokens, and `flavour`, one of swin.FLAVOURS.
      dtype: of the matrix products and of the maps. Parameters and batch statistics are float32.
      remat: what blocks keep for the backward pass, one of `layers.remat.POLICIES`.

    Returns:
      A module: `module(frames, train)` maps (N, H, W, 3) to a tuple of four maps (N, h, w, channels).

    Raises:
      ValueError: the name is unknown, depths or widths do not describe four stages, a Swin cannot be built so, or there
        is no such policy.
    """
    _check(config)
    if config.name == "resnet50":
        return resnet.ResNet(*resnet.architecture(config), remat=remat, dtype=dtype)
    if config.name in swin.ARCHITECTURES:
        return swin.Swin(swin.architecture(config), drop_path=config.drop_path, remat=remat, dtype=dtype)
    return pvt_v2.PVTv2(pvt_v2.architecture(config), drop_path=config.drop_path, remat=remat, dtype=dtype)


def channels(config) -> tuple[int, int, int, int]:
    """Channels of the four maps of `config.model.backbone`, fine to coarse."""
    _check(config)
    if config.name == "resnet50":
        _, widths = resnet.architecture(config)
        return tuple(resnet.EXPANSION * width for width in widths)
    if config.name in swin.ARCHITECTURES:
        return swin.architecture(config).widths
    return pvt_v2.architecture(config).widths


def _check(config) -> None:
    if config.name not in NAMES:
        raise ValueError(f"model.backbone.name is {config.name!r}; it must be one of {', '.join(NAMES)}")
    for field in ("depths", "widths"):
        values = tuple(getattr(config, field))
        if values and (len(values) != 4 or min(values) < 1):
            raise ValueError(
                f"model.backbone.{field} is {values}; give four positive numbers, one a stage, or none at all"
            )
