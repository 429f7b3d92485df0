"""Published files of backbones alone: the naming that a file follows, and the table of its entries.

Whoever published a backbone again gave the same modules other names. A naming is therefore written as substitutions
in the names of the first publisher, whose entries `backbones` and `swin` list.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Mapping

import numpy as np

from avs_jax import backbones as modules
from avs_jax.backbones import pvt_v2
from avs_jax.convert.rules import ConversionError, Rule, Table
from avs_jax.convert.tables import backbones, swin
from avs_jax.convert.tables.parts import Entries, dead, linear

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


def naming_of(names: Container[str], config_backbone) -> Naming:
    """The naming that a file's entries follow.

    Raises:
      ConversionError: they follow none that is known for this backbone; the message lists those that are.
    """
    known = namings(config_backbone)
    for naming in known:
        if naming.sign in names:
            return naming
    signs = "\n".join(f"  {naming.publisher}: {naming.sign}" for naming in known)
    raise ConversionError(
        f"the state dict is no known file of model.backbone.name {config_backbone.name!r}: it has none of the entries "
        f"that tell the publishers apart\n{signs}"
    )


def naming_by(publisher: str, config_backbone) -> Naming:
    """The naming of a publisher, for the backbone's flavour where it has one.

    Raises:
      ConversionError: the publisher is not known for this backbone.
    """
    flavour = getattr(config_backbone, "flavour", "")
    known = [n for n in namings(config_backbone) if n.flavour in ("", flavour)]
    for naming in known:
        if naming.publisher == publisher:
            return naming
    raise ConversionError(
        f"{publisher!r} does not publish {config_backbone.name}; known are {', '.join(n.publisher for n in known)}"
    )


def table(naming: Naming, config_backbone, found: Mapping[str, np.ndarray]) -> Table:
    """The entries of a file of this naming.

    `found` is the file, or the entries of it that a backbone does not use: it decides the classifier's classes, and
    which of the entries that only some files have are in the table.
    """
    width = modules.channels(config_backbone)[-1]
    entries = [dataclasses.replace(e, source=naming.rename(e.source)) for e in naming.entries(config_backbone)]
    entries = [e for e in entries if isinstance(e, Rule) or e.required or e.source in found]
    return entries + _classifier(naming.classifier, width, found)


def join(naming: Naming, state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Puts the pieces together that the publisher splits; incomplete ones stay as they are."""
    joined = dict(state_dict)
    for name in state_dict:
        pieces = _pieces(naming, name.replace(naming.split[0], naming.joint)) if naming.split else ()
        if name in pieces and len({np.shape(state_dict.get(piece)) for piece in pieces}) == 1:
            joined[name.replace(naming.split[0], naming.joint)] = np.concatenate([joined.pop(p) for p in pieces])
    return joined


def take_apart(naming: Naming, state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of `join`."""
    apart = {}
    for name, array in state_dict.items():
        pieces = _pieces(naming, name)
        apart |= zip(pieces, np.split(array, len(pieces)), strict=True) if pieces else {name: array}
    return apart


def _pieces(naming: Naming, name: str) -> tuple[str, ...]:
    """The publisher's names for an entry that it splits; none where it does not."""
    is_split = naming.joint and naming.joint in name
    return tuple(name.replace(naming.joint, piece) for piece in naming.split) if is_split else ()


def _classifier(module: str, width: int, found: Mapping[str, np.ndarray]) -> Entries:
    """The last layer, of any number of classes, where the file has one."""
    bias = f"{module}.bias"
    return dead(linear(module, module, width, np.size(found[bias]))) if bias in found else []


def namings(config_backbone) -> tuple[Naming, ...]:
    """All that are known of a backbone."""
    if config_backbone.name == "resnet50":
        return RESNET
    return PVT_V2 if config_backbone.name in pvt_v2.ARCHITECTURES else SWIN


def _pvt_entries(config) -> Entries:
    return backbones.pvt_entries(config, "", "")


def _swin_detector(config) -> Entries:
    return swin.entries(config, "", "")


def _swin_classifier(config) -> Entries:
    """Of a classifier's file, a detector's backbone takes all but the last norm."""
    norm = swin.last_norm(config, "", "")
    norm = norm if config.flavour == "classification" else dead(norm)
    return swin.body(config, "", "") + norm + swin.shift_masks(config)


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
