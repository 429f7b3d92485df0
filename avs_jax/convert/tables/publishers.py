"""Who publishes backbones, under which names.

Whoever published a backbone again gave the same modules other names. A naming is therefore written as substitutions
in the names of the first publisher, whose entries `backbones` and `swin` list.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from avs_jax.backbones import pvt_v2
from avs_jax.convert.tables import backbones, swin
from avs_jax.convert.tables.parts import Entries, dead

Pairs = tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Naming:
    """How a publisher names the entries of a backbone.

    Attributes:
      publisher: a name for messages and for the way back.
      sign: an entry that files of this naming have and those of the namings listed before it lack.
      entries: config.model.backbone -> the entries that are not the classifier's, under the first publisher's names.
      classifier: the module of the last layer; a backbone leaves it unused.
      starts: (old, new) beginnings of a name; at most one applies.
      parts: (old, new) parts of a name; each applies, after `starts`.
      joint: part of the name of entries that the publisher splits along their first axis.
      split: what stands there in the names of the pieces, in order.
      flavour: of the Swins that are published so.
    """

    publisher: str
    sign: str
    entries: Callable[[object], Entries]
    classifier: str
    starts: Pairs = ()
    parts: Pairs = ()
    joint: str = ""
    split: tuple[str, ...] = ()
    flavour: str = ""

    def rename(self, name: str) -> str:
        """The publisher's name of what the first one called `name`."""
        for old, new in self.starts:
            if name.startswith(old):
                name = new + name.removeprefix(old)
                break
        for old, new in self.parts:
            name = name.replace(old, new)
        return name


def _pvt_entries(config) -> Entries:
    return backbones.pvt_entries(config, "", "")


def _swin_detector(config) -> Entries:
    return swin.entries(config, "", "")


def _swin_classifier(config) -> Entries:
    return swin.body(config, "", "") + _last_norm(config) + swin.shift_masks(config)


def _swin_torchvision(config) -> Entries:
    return [swin.flat_index(entry) for entry in swin.body(config, "", "")] + _last_norm(config)


def _last_norm(config) -> Entries:
    """Of a classifier's file, a detector's backbone takes all but the last norm."""
    norm = swin.last_norm(config, "", "")
    return norm if config.flavour == "classification" else dead(norm)


_stages = range(4)

RESNET = (
    Naming("torchvision", "layer4.0.conv1.weight", backbones.imagenet_resnet_entries, "fc"),  # and timm
    Naming("avsegformer", "layer4_1.0.conv1.weight", lambda config: backbones.resnet_entries(config, "", ""), "fc"),
    Naming(
        "huggingface",
        "resnet.embedder.embedder.convolution.weight",
        backbones.imagenet_resnet_entries,
        "classifier.1",
        starts=(
            ("conv1.", "resnet.embedder.embedder.convolution."),
            ("bn1.", "resnet.embedder.embedder.normalization."),
            *((f"layer{i + 1}.", f"resnet.encoder.stages.{i}.layers.") for i in _stages),
        ),
        parts=(
            *((f".conv{i + 1}.", f".layer.{i}.convolution.") for i in range(3)),
            *((f".bn{i + 1}.", f".layer.{i}.normalization.") for i in range(3)),
            (".downsample.0.", ".shortcut.convolution."),
            (".downsample.1.", ".shortcut.normalization."),
        ),
    ),
    Naming(
        "detectron2",  # of torchvision's weights; those of MSRA have other names, and the stride in the 1x1 convolution
        "stem.conv1.weight",
        backbones.imagenet_resnet_entries,
        "stem.fc",
        starts=(
            ("conv1.", "stem.conv1."),
            ("bn1.", "stem.conv1.norm."),
            *((f"layer{i + 1}.", f"res{i + 2}.") for i in _stages),
        ),
        parts=(
            *((f".bn{i + 1}.", f".conv{i + 1}.norm.") for i in range(3)),
            (".downsample.0.", ".shortcut."),
            (".downsample.1.", ".shortcut.norm."),
        ),
    ),
)

PVT_V2 = (
    Naming("authors", "patch_embed1.proj.weight", _pvt_entries, "head"),  # and AVSegFormer, without the classifier
    Naming(
        "timm",
        "stages.0.blocks.0.attn.q.weight",
        _pvt_entries,
        "head",
        starts=(
            ("patch_embed1.", "patch_embed."),
            *((f"patch_embed{i + 1}.", f"stages.{i}.downsample.") for i in _stages),
            *((f"block{i + 1}.", f"stages.{i}.blocks.") for i in _stages),
            *((f"norm{i + 1}.", f"stages.{i}.norm.") for i in _stages),
        ),
        parts=((".dwconv.dwconv.", ".dwconv."),),
    ),
    Naming(
        "huggingface",
        "pvt_v2.encoder.layers.0.patch_embedding.proj.weight",
        _pvt_entries,
        "classifier",
        starts=(
            *((f"patch_embed{i + 1}.", f"pvt_v2.encoder.layers.{i}.patch_embedding.") for i in _stages),
            *((f"block{i + 1}.", f"pvt_v2.encoder.layers.{i}.blocks.") for i in _stages),
            *((f"norm{i + 1}.", f"pvt_v2.encoder.layers.{i}.layer_norm.") for i in _stages),
        ),
        parts=(
            (".patch_embedding.norm.", ".patch_embedding.layer_norm."),
            (".norm1.", ".layer_norm_1."),
            (".norm2.", ".layer_norm_2."),
            (".attn.norm.", ".attention.layer_norm."),
            (".attn.q.", ".attention.query."),
            (".attn.sr.", ".attention.spatial_reduction."),
            (".attn.", ".attention."),
            (".fc1.", ".dense1."),
            (".fc2.", ".dense2."),
        ),
        joint=".attention.kv.",
        split=(".attention.key.", ".attention.value."),
    ),
)

_SWIN_HUGGINGFACE_PARTS = (
    (".norm1.", ".layernorm_before."),
    (".norm2.", ".layernorm_after."),
    (".attn.proj.", ".attention.output.dense."),
    (".attn.", ".attention.self."),
    (".mlp.fc1.", ".intermediate.dense."),
    (".mlp.fc2.", ".output.dense."),
)

SWIN = (
    Naming(
        "authors",  # as Mask2Former and VCT convert them
        "norm3.weight",
        _swin_detector,
        "head",
        flavour="detection",
    ),
    Naming(
        "timm",
        "layers.3.downsample.reduction.weight",
        _swin_classifier,
        "head.fc",
        starts=tuple((f"layers.{i}.downsample.", f"layers.{i + 1}.downsample.") for i in range(3)),
        flavour="classification",
    ),
    Naming(
        "authors",
        "layers.0.downsample.reduction.weight",
        _swin_classifier,
        "head",
        flavour="classification",
    ),
    Naming(
        "torchvision",
        "features.1.0.attn.qkv.weight",
        _swin_torchvision,
        "head",
        starts=(
            ("patch_embed.proj.", "features.0.0."),
            ("patch_embed.norm.", "features.0.2."),
            *((f"layers.{i}.blocks.", f"features.{2 * i + 1}.") for i in _stages),
            *((f"layers.{i}.downsample.", f"features.{2 * i + 2}.") for i in range(3)),
        ),
        parts=((".mlp.fc1.", ".mlp.0."), (".mlp.fc2.", ".mlp.3.")),
        flavour="classification",
    ),
    Naming(
        "huggingface",
        "hidden_states_norms.stage4.weight",
        _swin_detector,
        "classifier",
        starts=(
            ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
            ("patch_embed.norm.", "embeddings.norm."),
            ("layers.", "encoder.layers."),
            *((f"norm{i}.", f"hidden_states_norms.stage{i + 1}.") for i in _stages),
        ),
        parts=_SWIN_HUGGINGFACE_PARTS,
        joint=".attention.self.qkv.",
        split=(".attention.self.query.", ".attention.self.key.", ".attention.self.value."),
        flavour="detection",
    ),
    Naming(
        "huggingface",
        "swin.embeddings.norm.weight",
        _swin_classifier,
        "classifier",
        starts=(
            ("patch_embed.proj.", "swin.embeddings.patch_embeddings.projection."),
            ("patch_embed.norm.", "swin.embeddings.norm."),
            ("layers.", "swin.encoder.layers."),
            ("norm.", "swin.layernorm."),
        ),
        parts=_SWIN_HUGGINGFACE_PARTS,
        joint=".attention.self.qkv.",
        split=(".attention.self.query.", ".attention.self.key.", ".attention.self.value."),
        flavour="classification",
    ),
)


def namings(config_backbone) -> tuple[Naming, ...]:
    """All that are known of a backbone."""
    if config_backbone.name == "resnet50":
        return RESNET
    return PVT_V2 if config_backbone.name in pvt_v2.ARCHITECTURES else SWIN
