"""AVSegFormer's and VCT's parts in PyTorch, out of public packages: what `--against torch` compares with.

Backbones are timm's, the deformable encoder is transformers' (Deformable DETR, with PyTorch's grid_sample), decoders
are torch.nn's; VCT's pixel decoder and masked decoder are transformers' Mask2Former. They compute what the parts here
compute, as an author would write it: no use is made of the algebra that saves work here. Maps are NCHW.
"""

from __future__ import annotations

from collections.abc import Sequence

import timm
import torch
import torch.nn.functional as F
from torch import nn
from transformers import DeformableDetrConfig, Mask2FormerConfig
from transformers.models.deformable_detr.modeling_deformable_detr import (
    DeformableDetrEncoderLayer,
    MultiScaleDeformableAttention,
)
from transformers.models.mask2former.modeling_mask2former import Mask2FormerPixelDecoder, Mask2FormerTransformerModule

from avs_jax.backbones import channels
from avs_jax.benchmark.sizes import Sizes

SWINS = {"swin_b": "swin_base_patch4_window12_384", "swin_base": "swin_base_patch4_window12_384"}


class Backbone(nn.Module):
    """Frames (N, 3, H, W) -> four maps (N, C, h, w)."""

    def __init__(self, config, image_size: tuple[int, int]):
        super().__init__()
        name = config.name
        options = {} if name == "resnet50" else {"drop_path_rate": config.drop_path}
        if name in SWINS:
            options["img_size"] = image_size
        levels = (1, 2, 3, 4) if name == "resnet50" else (0, 1, 2, 3)
        self.body = timm.create_model(SWINS.get(name, name), features_only=True, out_indices=levels, **options)
        self.channels_last = name in SWINS

    def forward(self, frames: torch.Tensor) -> list[torch.Tensor]:
        maps = self.body(frames)
        return [x.permute(0, 3, 1, 2) for x in maps] if self.channels_last else maps


class VGGish(nn.Sequential):
    """Log-mel (N, 96, 64) -> embedding (N, embedding_dim)."""

    def __init__(self, config):
        layers, before = [nn.Unflatten(1, (1, -1))], 1
        for width, convs in zip(config.widths, (1, 1, 2, 2), strict=True):
            for _ in range(convs):
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
                before = width
            layers.append(nn.MaxPool2d(2, 2))
        layers.append(nn.Flatten())
        before *= 6 * 4
        for width in (config.hidden_dim, config.hidden_dim, config.embedding_dim):
            layers += [nn.Linear(before, width), nn.ReLU()]
            before = width
        super().__init__(*layers)


class Encoder(nn.Module):
    """Deformable self-attention over three maps (N, D, h, w) -> tokens (N, S, D)."""

    def __init__(self, config, levels: Sequence[tuple[int, int]]):
        super().__init__()
        e = config.encoder
        layer = DeformableDetrConfig(
            d_model=config.embed_dim,
            encoder_ffn_dim=e.ffn_dim,
            encoder_attention_heads=config.num_heads,
            encoder_n_points=e.num_points,
            num_feature_levels=len(levels),
            dropout=e.dropout,
            activation_dropout=e.dropout,
            activation_function="gelu",
        )
        self.layers = nn.ModuleList(DeformableDetrEncoderLayer(layer) for _ in range(e.num_layers))
        self.position = nn.Parameter(torch.randn(1, sum(h * w for h, w in levels), config.embed_dim))
        self.levels = list(levels)
        self.register_buffer("shapes", torch.tensor(self.levels))
        centres = [_centres(height, width) for height, width in levels]
        self.register_buffer("centres", torch.cat(centres)[None, :, None].repeat(1, 1, len(levels), 1))

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], 1)
        for layer in self.layers:
            tokens = layer(
                tokens,
                None,
                spatial_position_embeddings=self.position,
                reference_points=self.centres,
                spatial_shapes=self.shapes,
                spatial_shapes_list=self.levels,
            )
        return tokens


class Sampling(nn.Module):
    """The core of one deformable attention: value (N, S, heads, d) at locations, weighted."""

    def __init__(self, levels: Sequence[tuple[int, int]]):
        super().__init__()
        self.core, self.levels = MultiScaleDeformableAttention(), list(levels)

    def forward(self, value: torch.Tensor, locations: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return self.core(value, None, self.levels, None, locations, weights, 64)


class Decoder(nn.Module):
    """Queries (N, Q, D) look at each other and at a memory (N, K, D)."""

    def __init__(self, config, part):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(
                config.embed_dim,
                config.num_heads,
                part.ffn_dim,
                part.get("dropout", 0.0),
                activation="gelu",
                batch_first=True,
            )
            for _ in range(part.num_layers)
        )

    def forward(self, queries: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            queries = layer(queries, memory)
        return queries


class QueryGenerator(nn.Module):
    """Queries (N, Q, D) out of the audio token (N, 1, D)."""

    def __init__(self, config):
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, config.num_queries, config.embed_dim))
        self.decoder = Decoder(config, config.query_generator)

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.query.expand(len(audio), -1, -1), audio)


class Head(nn.Module):
    """Mask feature, mixer and predictor: finest map (N, D, h, w), memory, queries, audio -> logits (N, C, 4 h, 4 w)."""

    def __init__(self, config, shape: tuple[int, int]):
        super().__init__()
        dim, hidden, (wide, narrow) = config.embed_dim, config.mlp_dim, config.tail_dims
        self.shape = shape
        self.lateral = nn.Sequential(nn.Conv2d(dim, dim, 1), nn.GroupNorm(32, dim))
        self.output = nn.Sequential(nn.Conv2d(dim, dim, 3, padding=1), nn.GroupNorm(32, dim), nn.ReLU())
        self.mixer = nn.MultiheadAttention(dim, config.num_heads, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Conv2d(config.num_queries, hidden, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, dim, 1),
        )
        self.tail = nn.Sequential(
            nn.Conv2d(dim, wide, 3, padding=1),
            nn.Upsample(scale_factor=4, mode="bilinear"),
            nn.Conv2d(wide, narrow, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(narrow, config.num_classes, 1, bias=False),
        )

    def forward(
        self, finest: torch.Tensor, memory: torch.Tensor, queries: torch.Tensor, audio: torch.Tensor
    ) -> torch.Tensor:
        height, width = self.shape
        encoded = memory[:, : height * width].transpose(1, 2).unflatten(2, self.shape)
        encoded = F.interpolate(encoded, finest.shape[2:], mode="bilinear", align_corners=False)
        feature = self.output(self.lateral(finest) + encoded)
        pixels = feature.flatten(2).transpose(1, 2)
        gate, _ = self.mixer(audio, pixels, pixels, need_weights=False)  # (N, 1, D)
        feature = feature * gate.sigmoid().transpose(1, 2)[..., None]
        product = torch.einsum("ndhw,nqd->nqhw", feature, queries)
        return self.tail(feature + self.mlp(product))


class AVSegFormer(nn.Module):
    """The whole model: frames (N, 3, H, W) and log-mel (N, 96, 64) -> logits (N, C, H, W)."""

    def __init__(self, config, sizes: Sizes):
        super().__init__()
        dim = config.embed_dim
        self.backbone = Backbone(config.backbone, sizes.image)
        self.vggish = VGGish(config.vggish)
        self.vggish.requires_grad_(not config.vggish.frozen)
        self.audio_proj = nn.Linear(config.vggish.embedding_dim, dim)
        self.projections = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, dim, 1), nn.GroupNorm(32, dim)) for width in channels(config.backbone)
        )
        self.encoder = Encoder(config, sizes.levels)
        self.query_generator = QueryGenerator(config)
        self.learnable_query = nn.Parameter(torch.randn(config.num_queries, dim))
        self.decoder = Decoder(config, config.decoder)
        self.head = Head(config, sizes.levels[0])

    def forward(self, frames: torch.Tensor, log_mel: torch.Tensor) -> torch.Tensor:
        audio = self.audio_proj(self.vggish(log_mel))[:, None]
        maps = [project(x) for project, x in zip(self.projections, self.backbone(frames), strict=True)]
        memory = self.encoder(maps[1:])
        queries = self.decoder(self.query_generator(audio) + self.learnable_query, memory)
        return self.head(maps[0], memory, queries, audio)


class PixelDecoder(nn.Module):
    """Mask2Former's: four maps (N, C, h, w), fine to coarse -> mask features, and three maps, coarse to fine."""

    def __init__(self, config):
        super().__init__()
        self.body = Mask2FormerPixelDecoder(_mask2former(config), list(channels(config.backbone)))
        nn.init.normal_(self.body.level_embed)

    def forward(self, maps: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        found = self.body(list(maps), output_attentions=False, output_hidden_states=False, return_dict=True)
        return found.mask_features, *found.multi_scale_features


class MaskDecoder(nn.Module):
    """Mask2Former's: three maps, coarse to fine, and mask features -> masks (N, Q, h, w) of every layer."""

    def __init__(self, config):
        super().__init__()
        self.body = Mask2FormerTransformerModule(config.embed_dim, _mask2former(config))

    def forward(self, maps: Sequence[torch.Tensor], mask_features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.body(list(maps), mask_features).masks_queries_logits


def _mask2former(config) -> Mask2FormerConfig:
    dim, pixel_decoder = config.embed_dim, config.pixel_decoder
    return Mask2FormerConfig(
        feature_size=dim,
        mask_feature_size=dim,
        hidden_dim=dim,
        encoder_layers=pixel_decoder.num_layers,
        encoder_feedforward_dim=pixel_decoder.ffn_dim,
        decoder_layers=config.decoder.num_layers + 1,  # it counts the prediction before the first
        dim_feedforward=config.decoder.ffn_dim,
        num_attention_heads=config.num_heads,
        num_queries=config.num_queries,
    )


def _centres(height: int, width: int) -> torch.Tensor:
    """(h w, xy) centres of a map's cells in [0, 1]."""
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], -1)
