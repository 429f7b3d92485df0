"""Tables of Mask2Former's pixel decoder and masked decoder, under detectron2's names (VCT's too) and Hugging Face's."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from avs_jax.convert.tables.parts import (
    Entries,
    attention,
    conv,
    deformable_attention,
    linear,
    norm,
    pointwise,
    stacked,
    weight,
)
from avs_jax.layers.pixel_decoder import NUM_LEVELS


@dataclasses.dataclass(frozen=True)
class Names:
    """What a publisher calls the parts; {} stands for a number. A pair is a layer and the norm that follows it."""

    # The pixel decoder.
    inputs: tuple[str, str]
    encoder_level_embed: str
    encoder_layer: str
    encoder_parts: tuple[str, str, str, str]  # first norm, two linear layers, second norm
    lateral: tuple[str, str]
    output: tuple[str, str]
    mask_features: str
    # The masked decoder.
    query_features: str
    query_positions: str
    level_embed: str
    cross: tuple[str, str]
    self: tuple[str, str]
    ffn: tuple[str, str, str]  # two linear layers, and the norm
    joint_self_attention: bool  # whether the three projections of the self-attention are one matrix
    norm: str
    class_embed: str
    mask_embed: str


def _detectron2(pixel: str, predictor: str) -> Names:
    return Names(
        inputs=(f"{pixel}.input_proj.{{}}.0", f"{pixel}.input_proj.{{}}.1"),
        encoder_level_embed=f"{pixel}.transformer.level_embed",
        encoder_layer=f"{pixel}.transformer.encoder.layers.{{}}",
        encoder_parts=("norm1", "linear1", "linear2", "norm2"),
        lateral=(f"{pixel}.adapter_1", f"{pixel}.adapter_1.norm"),
        output=(f"{pixel}.layer_1", f"{pixel}.layer_1.norm"),
        mask_features=f"{pixel}.mask_features",
        query_features=f"{predictor}.query_feat.weight",
        query_positions=f"{predictor}.query_embed.weight",
        level_embed=f"{predictor}.level_embed.weight",
        cross=(
            f"{predictor}.transformer_cross_attention_layers.{{}}.multihead_attn",
            f"{predictor}.transformer_cross_attention_layers.{{}}.norm",
        ),
        self=(
            f"{predictor}.transformer_self_attention_layers.{{}}.self_attn",
            f"{predictor}.transformer_self_attention_layers.{{}}.norm",
        ),
        ffn=tuple(f"{predictor}.transformer_ffn_layers.{{}}.{part}" for part in ("linear1", "linear2", "norm")),
        joint_self_attention=True,
        norm=f"{predictor}.decoder_norm",
        class_embed=f"{predictor}.class_embed",
        mask_embed=f"{predictor}.mask_embed.layers.{{}}",
    )


def _huggingface(pixel: str, transformer: str) -> Names:
    layer = f"{transformer}.decoder.layers.{{}}"
    return Names(
        inputs=(f"{pixel}.input_projections.{{}}.0", f"{pixel}.input_projections.{{}}.1"),
        encoder_level_embed=f"{pixel}.level_embed",
        encoder_layer=f"{pixel}.encoder.layers.{{}}",
        encoder_parts=("self_attn_layer_norm", "fc1", "fc2", "final_layer_norm"),
        lateral=(f"{pixel}.adapter_1.0", f"{pixel}.adapter_1.1"),
        output=(f"{pixel}.layer_1.0", f"{pixel}.layer_1.1"),
        mask_features=f"{pixel}.mask_projection",
        query_features=f"{transformer}.queries_features.weight",
        query_positions=f"{transformer}.queries_embedder.weight",
        level_embed=f"{transformer}.level_embed.weight",
        cross=(f"{layer}.cross_attn", f"{layer}.cross_attn_layer_norm"),
        self=(f"{layer}.self_attn", f"{layer}.self_attn_layer_norm"),
        ffn=(f"{layer}.fc1", f"{layer}.fc2", f"{layer}.final_layer_norm"),
        joint_self_attention=False,
        norm=f"{transformer}.decoder.layernorm",
        class_embed="class_predictor",
        mask_embed=f"{transformer}.decoder.mask_predictor.mask_embedder.{{}}.0",
    )


DETECTRON2 = _detectron2("sem_seg_head.pixel_decoder", "sem_seg_head.predictor")
HUGGINGFACE = _huggingface("model.pixel_level_module.decoder", "model.transformer_module")


def pixel_decoder(config, channels: Sequence[int], names: Names, target: str) -> Entries:
    """A `PixelDecoder` of `config` = config.model, over a backbone whose maps have `channels`, fine to coarse."""
    width, e = config.embed_dim, config.pixel_decoder
    samples = config.num_heads * NUM_LEVELS * e.num_points
    table = [weight(names.encoder_level_embed, (NUM_LEVELS, width), f"{target}/level_embed")]
    for i, inputs in enumerate(reversed(channels[1:])):
        layer, group_norm = (name.format(i) for name in names.inputs)
        table += pointwise(layer, f"{target}/input_conv_{i}", inputs, width)
        table += norm(group_norm, f"{target}/input_norm_{i}", width)
    for i in range(e.num_layers):
        theirs, ours = names.encoder_layer.format(i), f"{target}/layers"
        layer = deformable_attention(f"{theirs}.self_attn", f"{ours}/self_attn", width, samples)
        norm1, linear1, linear2, norm2 = (f"{theirs}.{part}" for part in names.encoder_parts)
        layer += norm(norm1, f"{ours}/norm1", width) + norm(norm2, f"{ours}/norm2", width)
        layer += linear(linear1, f"{ours}/ffn/linear1", width, e.ffn_dim)
        layer += linear(linear2, f"{ours}/ffn/linear2", e.ffn_dim, width)
        table += stacked(layer, i)
    table += pointwise(names.lateral[0], f"{target}/lateral_conv", channels[0], width, bias=False)
    table += norm(names.lateral[1], f"{target}/lateral_norm", width)
    table += conv(names.output[0], f"{target}/output_conv", width, width, 3, bias=False)
    table += norm(names.output[1], f"{target}/output_norm", width)
    return table + pointwise(names.mask_features, f"{target}/mask_features", width, width)


def decoder(config, num_classes: int, num_levels: int, names: Names, target: str) -> Entries:
    """A `MaskedDecoder` of `config` = config.model that reads `num_levels` maps and has learnt queries."""
    width, d = config.embed_dim, config.decoder
    queries = (config.num_queries, width)
    table = [
        weight(names.query_features, queries, f"{target}/query_features"),
        weight(names.query_positions, queries, f"{target}/query_positions"),
        weight(names.level_embed, (num_levels, width), f"{target}/level_embed"),
    ]
    own = attention if names.joint_self_attention else _separate_attention
    for i in range(d.num_layers):
        ours = f"{target}/layer_{i}"
        table += attention(names.cross[0].format(i), f"{ours}/cross_attn", width, bias=True)
        table += norm(names.cross[1].format(i), f"{ours}/cross_norm", width)
        table += own(names.self[0].format(i), f"{ours}/self_attn", width, bias=True)
        table += norm(names.self[1].format(i), f"{ours}/self_norm", width)
        linear1, linear2, ffn_norm = (name.format(i) for name in names.ffn)
        table += linear(linear1, f"{ours}/ffn/linear1", width, d.ffn_dim)
        table += linear(linear2, f"{ours}/ffn/linear2", d.ffn_dim, width)
        table += norm(ffn_norm, f"{ours}/ffn_norm", width)
    table += norm(names.norm, f"{target}/head/norm", width)
    table += linear(names.class_embed, f"{target}/head/class_embed", width, num_classes + 1)
    for i in range(3):
        table += linear(names.mask_embed.format(i), f"{target}/head/mask_embed_{i}", width, width)
    return table


def _separate_attention(source: str, target: str, width: int, bias: bool) -> Entries:
    names = (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "out"))
    return [e for theirs, ours in names for e in linear(f"{source}.{theirs}", f"{target}/{ours}", width, width, bias)]
