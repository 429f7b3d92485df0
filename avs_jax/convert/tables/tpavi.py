"""The table of TPAVI (github OpenNLPLab/AVSBench): the state dict of `Pred_endecoder`, which holds no VGGish."""

from __future__ import annotations

from avs_jax import backbones
from avs_jax.convert.rules import Layout
from avs_jax.convert.tables import backbones as backbone_tables
from avs_jax.convert.tables.parts import Entries, batch_norm, conv, dead, linear, norm, pointwise, weight
from avs_jax.models.tpavi import DILATIONS

# A 1x1x1 convolution over (T, H, W) as a linear layer.
_POINTWISE_3D = Layout(lambda array: (array[:, :, 0, 0, 0].T,), lambda arrays: arrays[0].T[:, :, None, None, None])


def entries(config) -> Entries:
    """Every entry, for the stages, the passes and the backbone of `config.model`."""
    width = config.embed_dim
    prefix = "resnet." if config.backbone.name == "resnet50" else "encoder_backbone."
    table = backbone_tables.backbone(config.backbone, prefix, "backbone/")
    for i, channels in enumerate(backbones.channels(config.backbone)):
        for k, dilation in enumerate(DILATIONS):
            table += conv(f"conv{i + 1}.conv2d_list.{k}", f"head/dilated_{i}/conv_{dilation}", channels, width, 3)
    for i in range(4):
        for unit in (1, 2):
            theirs, ours = f"path{i + 1}.resConfUnit{unit}", f"head/path_{i}/unit{unit}"
            convs = [e for n in (1, 2) for e in conv(f"{theirs}.conv{n}", f"{ours}/conv{n}", width, width, 3)]
            table += dead(convs) if (i, unit) == (3, 1) else convs  # the coarsest map has nothing to be added to
    for i in config.stages:
        table += interaction(config, f"tpavi_b{i + 1}", f"head/interaction_{i}")
    hidden = config.tail_dims
    table += conv("output_conv.0", "head/predictor/conv_0", width, hidden[0], 3)
    table += conv("output_conv.2", "head/predictor/conv_1", hidden[0], hidden[1], 3)
    return table + pointwise("output_conv.4", "head/predictor/conv_2", hidden[1], config.num_classes)


def interaction(config, source: str, target: str) -> Entries:
    """A stage of TPAVI: the layer that aligns the sound, and the interaction."""
    width, inner, sound = config.embed_dim, config.inter_dim, config.vggish.embedding_dim
    align = linear(f"{source}.align_channel", f"{target}/align_channel", sound, width, config.align_bias)
    table = align if config.audio_visual else dead(align)
    for name in ("theta", "phi", "g"):
        table += _pointwise_3d(f"{source}.{name}", f"{target}/tpavi/{name}", width, inner)
    table += _pointwise_3d(f"{source}.W_z.0", f"{target}/tpavi/W_z", inner, width)
    table += batch_norm(f"{source}.W_z.1", f"{target}/tpavi/norm", width)
    return table + norm(f"{source}.norm_layer", f"{target}/tpavi/layer_norm", width)


def _pointwise_3d(source: str, target: str, inputs: int, outputs: int) -> Entries:
    return [
        weight(f"{source}.weight", (outputs, inputs, 1, 1, 1), f"{target}/kernel", _POINTWISE_3D),
        weight(f"{source}.bias", (outputs,), f"{target}/bias"),
    ]
