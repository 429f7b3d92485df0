"""The table of AVSegFormer (github vvvb-github/AVSegFormer): the state dict of the whole model."""

from __future__ import annotations

from avs_jax import backbones
from avs_jax.convert.rules import ConversionError, Rule, stacked_linears
from avs_jax.convert.tables import backbones as backbone_tables
from avs_jax.convert.tables.parts import (
    Entries,
    attention,
    conv,
    dead,
    deformable_attention,
    linear,
    norm,
    pointwise,
    stacked,
    weight,
)

_LEVELS = 3  # of the encoder's tokens: 1/8, 1/16, 1/32


def entries(config) -> Entries:
    """Every entry, for the sizes and the backbone of `config.model`.

    Raises:
      ConversionError: the authors' model has no such parts: the paper's variant, or another mixer.
    """
    if config.variant != "released" or config.mixer != "channel":
        raise ConversionError(
            f"model.variant={config.variant!r}, model.mixer={config.mixer!r}: the authors' files hold the weights of "
            "model.variant='released' with model.mixer='channel'"
        )
    table = backbone_tables.backbone(config.backbone, "backbone.", "backbone/")
    table += backbone_tables.vggish(config.vggish, "vggish.", "vggish/")
    table += linear("audio_proj", "audio_proj", config.vggish.embedding_dim, config.embed_dim)
    for part in (_inputs, _query_generator, _encoder, _decoder, _mask_feature, _mixer, _predictor, _never_run):
        table += part(config)
    return table


def _inputs(config) -> Entries:
    width, table = config.embed_dim, []
    for i, channels in enumerate(backbones.channels(config.backbone)):
        table += pointwise(f"head.in_proj.{i}.0", f"head/input_conv_{i}", channels, width)
        table += norm(f"head.in_proj.{i}.1", f"head/input_norm_{i}", width)
    return table


def _query_generator(config) -> Entries:
    width, queries, table = config.embed_dim, (config.num_queries, config.embed_dim), []
    if config.learnable_queries:
        table.append(weight("head.learnable_query.weight", queries, "head/learnable_query"))
    if config.query_generator.name == "repeat":
        return table
    table.append(weight("head.query_generator.query.weight", queries, "head/query_generator/query"))
    for i in range(config.query_generator.num_layers):
        theirs = f"head.query_generator.layers.{i}"
        linears = f"{theirs}.ffn.0", f"{theirs}.ffn.2"
        layer = _decoder_layer(
            theirs, "head/query_generator/layers", linears, width, config.query_generator.ffn_dim, False
        )
        table += stacked(layer, i)
    return table


def _encoder(config) -> Entries:
    width = config.embed_dim
    samples = config.num_heads * _LEVELS * config.encoder.num_points
    table = [weight("head.level_embed", (_LEVELS, width), "head/encoder/level_embed")]
    for i in range(config.encoder.num_layers):
        theirs, ours = f"head.transformer.encoder.layers.{i}", "head/encoder/layers"
        layer = deformable_attention(f"{theirs}.self_attn", f"{ours}/self_attn", width, samples)
        layer += _feed_forward(f"{theirs}.linear1", f"{theirs}.linear2", ours, width, config.encoder.ffn_dim)
        layer += _norms(theirs, ours, width, 2)
        table += stacked(layer, i)
    return table


def _decoder(config) -> Entries:
    width, table = config.embed_dim, []
    for i in range(config.decoder.num_layers):
        theirs = f"head.transformer.decoder.layers.{i}"
        linears = f"{theirs}.linear1", f"{theirs}.linear2"
        table += stacked(_decoder_layer(theirs, "head/decoder/layers", linears, width, config.decoder.ffn_dim, True), i)
    return table


def _decoder_layer(theirs: str, ours: str, linears: tuple[str, str], width: int, hidden: int, bias: bool) -> Entries:
    """A `DecoderLayer`; `linears` names its feed-forward's layers, `bias` is that of its attentions."""
    layer = [
        e for part in ("self", "cross") for e in attention(f"{theirs}.{part}_attn", f"{ours}/{part}_attn", width, bias)
    ]
    return layer + _feed_forward(*linears, ours, width, hidden) + _norms(theirs, ours, width, 3)


def _mask_feature(config) -> Entries:
    width = config.embed_dim
    table = pointwise("head.lateral_conv.0", "head/mask_feature/lateral_conv", width, width)
    table += norm("head.lateral_conv.1", "head/mask_feature/lateral_norm", width)
    table += conv("head.out_conv.0", "head/mask_feature/output_conv", width, width, 3)
    return table + norm("head.out_conv.1", "head/mask_feature/output_norm", width)


def _mixer(config) -> Entries:
    width, ours = config.embed_dim, "head/mixer"
    key_value = (f"params/{ours}/key/kernel", f"params/{ours}/value/kernel")
    table = linear("head.fusion_block.q_proj", f"{ours}/query", width, width, bias=False)
    table.append(Rule("head.fusion_block.kv_proj.weight", (2 * width, width), key_value, stacked_linears(2)))
    return table + linear("head.fusion_block.proj", f"{ours}/out", width, width)


def _predictor(config) -> Entries:
    sizes = (config.num_queries, config.mlp_dim, config.mlp_dim, config.embed_dim)
    table = []
    for i in range(3):
        table += pointwise(f"head.mlp.layers.{i}", f"head/predictor/mlp_{i}", sizes[i], sizes[i + 1])
    return table + _tail(config, "head.fc")


def _never_run(config) -> Entries:
    """The FPN, and a second tail."""
    fpn = [e for i in (1, 2, 3) for e in conv(f"head.fpn.up{i}.1", "", config.embed_dim, config.embed_dim, 3)]
    return dead(fpn + _tail(config, "head.attn_fc"))


def _tail(config, source: str) -> Entries:
    first, second = config.tail_dims
    table = conv(f"{source}.0", "head/predictor/tail_0", config.embed_dim, first, 3)
    table += conv(f"{source}.2", "head/predictor/tail_1", first, second, 3)
    return table + pointwise(f"{source}.4", "head/predictor/tail_2", second, config.num_classes, bias=False)


def _feed_forward(first: str, second: str, target: str, width: int, hidden: int) -> Entries:
    table = linear(first, f"{target}/ffn/linear1", width, hidden)
    return table + linear(second, f"{target}/ffn/linear2", hidden, width)


def _norms(source: str, target: str, width: int, count: int) -> Entries:
    return [e for i in range(1, count + 1) for e in norm(f"{source}.norm{i}", f"{target}/norm{i}", width)]
