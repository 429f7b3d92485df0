"""The table of VCT (github spyflying/VCT_AVS): the state dict of the whole model, the loss's parameters among it."""

from __future__ import annotations

import dataclasses

import numpy as np

from avs_jax import backbones
from avs_jax.convert.rules import ConversionError, Dead, Rule
from avs_jax.convert.tables import backbones as backbone_tables
from avs_jax.convert.tables import mask2former, publishers
from avs_jax.convert.tables.parts import Entries, attention, conv, dead, linear, norm, pointwise, weight
from avs_jax.models.vct import num_head_classes, uses_prototypes

_LEVELS = 4  # that the decoder reads: the sound, and three maps
_AUDIO_LAYERS = (0, 2, 4)  # linear layers of the audio MLPs, which PyTorch numbers with the ReLUs between them
_NO_OBJECT = 0.1
_QUERY_BLOCK = "sem_seg_head.predictor.visual_query_block"


def entries(config) -> Entries:
    """Every entry, for the sizes and the backbone of `config.model`.

    Raises:
      ConversionError: the authors' files hold no such model: the paper's variant, or an ablation.
    """
    g = config.query_generator
    if config.variant != "released" or (g.name, g.grouping, config.fusion) != ("vision", "gumbel", "none"):
        raise ConversionError(
            f"model.variant={config.variant!r}, model.query_generator.name={g.name!r}, .grouping={g.grouping!r}, "
            f"model.fusion={config.fusion!r}: the authors' files hold the weights of model.variant='released' with "
            "query_generator.name='vision', query_generator.grouping='gumbel', fusion='none'"
        )
    channels = backbones.channels(config.backbone)
    table = _backbone(config.backbone, "backbone.", "backbone/")
    if config.pre_masks:
        table += _backbone(config.backbone, "pre_sam_backbone.", "pre_mask_backbone/")
        table += _gates(channels)
    table += _audio(config)
    table += mask2former.pixel_decoder(config, channels, mask2former.DETECTRON2, "pixel_decoder")
    table += mask2former.decoder(config, num_head_classes(config), _LEVELS, mask2former.DETECTRON2, "decoder")
    return table + _query_generator(config) + _loss(config)


def grouping_attention(width: int, source: str, target: str) -> Entries:
    """The attention that assigns pixels to queries."""
    names = (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("proj", "out"))
    return [e for theirs, ours in names for e in linear(f"{source}.{theirs}", f"{target}/{ours}", width, width)]


def _backbone(config, source: str, target: str) -> Entries:
    if config.name != "resnet50":
        return backbone_tables.backbone(config, source, target)
    naming = next(naming for naming in publishers.RESNET if naming.publisher == "detectron2")
    rules = [entry for entry in naming.entries(config) if isinstance(entry, Rule)]  # its batch norms count no batches
    return [_moved(rule, source + naming.rename(rule.source), target) for rule in rules]


def _moved(rule: Rule, source: str, target: str) -> Rule:
    """The rule of the same array where it is called `source`, and `target` comes before its place in our tree."""
    places = (path.split("/", 1) for path in rule.targets)
    return dataclasses.replace(rule, source=source, targets=tuple(f"{a}/{target}{b}" for a, b in places))


def _gates(channels: tuple[int, ...]) -> Entries:
    table = []
    for i, width in enumerate(channels):
        hidden = max(1, width // 16)
        table += linear(f"scale_factor_module.{i}.fc1", f"gate_{i}/fc1", width, hidden)
        table += linear(f"scale_factor_module.{i}.fc2", f"gate_{i}/fc2", hidden, width)
    return table


def _audio(config) -> Entries:
    """VGGish, whose fully connected layers are never run, and the MLP on its map's tokens."""
    whole = backbone_tables.vggish(config.vggish, "audio_backbone.", "vggish/")
    table = [e for e in whole if ".features." in e.source]
    table += dead([e for e in whole if ".embeddings." in e.source])
    widths = (config.vggish.widths[-1], config.audio_mlp_dim, config.audio_mlp_dim, config.embed_dim)
    for i, layer in enumerate(_AUDIO_LAYERS):
        source = f"sem_seg_head.audio_transformation.embeddings.{layer}"
        table += linear(source, f"audio_mlp_{i}", widths[i], widths[i + 1])
    return table


def _query_generator(config) -> Entries:
    g, width = config.query_generator, config.embed_dim
    source, target = _QUERY_BLOCK, "query_generator"
    table = pointwise(f"{source}.pre_proj.0", f"{target}/conv_0", width, width)
    table += conv(f"{source}.pre_proj.2", f"{target}/conv_1", width, width, 3)
    table += pointwise(f"{source}.pre_proj.4", f"{target}/conv_2", width, width)
    sizes = (g.num_pixels, g.hidden_dim, g.hidden_dim, config.num_queries)
    for i in range(3):
        table += linear(f"{source}.query_mixer.layers.{i}", f"{target}/mixer_{i}", sizes[i], sizes[i + 1])
    if uses_prototypes(config):
        table.append(weight(f"{source}.prototype.weight", (g.prototypes, width), f"{target}/prototypes"))
        table += attention(f"{source}.pre_attn.multihead_attn", f"{target}/prompt", width, bias=True)
        table += norm(f"{source}.pre_attn.norm", f"{target}/prompt_norm", width)
    return table + grouping_attention(width, f"{source}.assign_attn", f"{target}/grouping")


def _loss(config) -> Entries:
    """The weights of the classes, which the loss has from its configuration here, and what compares prototypes."""
    classes = num_head_classes(config) + 1
    weights = np.append(np.ones(classes - 1), _NO_OBJECT)
    table = [Dead("criterion.empty_weight", (classes,), required=False, value=lambda: weights)]
    if uses_prototypes(config):
        width = config.embed_dim
        for theirs, ours in (("audio_proj", "audio_proj"), ("proto_proj", "prototype_proj")):
            table += linear(f"sem_seg_head.predictor.{theirs}", f"similarity/{ours}", width, width, bias=False)
        table.append(weight("criterion.logit_scale", (), "similarity/logit_scale"))
    return table
