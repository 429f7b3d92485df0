"""What the axes of every parameter mean: one table, by the parameter's path, for all models and backbones."""

from __future__ import annotations

import functools
import re

Axes = tuple[str, ...]

CONVOLUTION = ("height", "width", "conv_in", "conv_out")

# A module's path -> the axes of its kernel (or scale); its bias has the last of them. Exactly one line must fit.
MODULES: dict[str, Axes] = {
    r".*(norm|bn)_?\d*": ("norm",),
    # Attention, of all kinds. Offsets and weights of sampling points are laid out head by head.
    r".*/(query|key|value|q|value_proj|sampling_offsets|attention_weights)": ("embed", "heads"),
    r".*/attn/kv": ("embed", "keys_values"),
    r".*/(out|output_proj|attn/proj)": ("heads", "embed"),
    # Feed-forward networks.
    r".*/(ffn/linear1|mlp/fc1|(plain|shifted)/fc1)": ("embed", "mlp"),
    r".*/(ffn/linear2|mlp/fc2|(plain|shifted)/fc2)": ("mlp", "embed"),
    r".*/mlp/dwconv": ("height", "width", "one", "mlp"),
    # Backbones.
    r"\w*backbone/(stage\d_block\d+/(shortcut_)?conv\d?|conv1)": CONVOLUTION,
    r"\w*backbone/(patch_embed\d?/proj|stage\d/attn/sr)": CONVOLUTION,
    r"\w*backbone/merge\d/reduction": ("conv_in", "conv_out"),
    r"vggish/conv\d_\d": CONVOLUTION,
    r"vggish/fc0": ("embed", "mlp"),
    r"vggish/fc1": ("mlp", "embed"),
    r"vggish/fc2": ("embed", "audio"),
    # AVSegFormer, and what VCT's pixel decoder shares with its head.
    r"audio_proj": ("audio", "embed"),
    r"(head|pixel_decoder)/(mask_feature/)?(input_conv_\d|lateral_conv)": ("conv_in", "embed"),
    r"(head/mask_feature|pixel_decoder)/output_conv": CONVOLUTION,
    r"head/mix_proj": ("embed", "classes"),
    r"head/predictor/mlp_0": ("queries", "mlp"),
    r"head/predictor/mlp_1": ("mlp", "embed"),
    r"head/predictor/mlp_2": ("embed", "conv_in"),
    r"head/predictor/(tail|conv)_[01]": CONVOLUTION,
    r"head/predictor/(tail|conv)_2": ("conv_in", "classes"),
    # TPAVI.
    r"head/(dilated_\d/conv_\d+|path_\d/unit\d/conv\d)": CONVOLUTION,
    r"head/interaction_\d/align_channel": ("audio", "embed"),
    r"head/interaction_\d/tpavi/(theta|phi|g)": ("embed", "mlp"),
    r"head/interaction_\d/tpavi/W_z": ("mlp", "embed"),
    # VCT.
    r"audio_mlp_0": ("audio", "mlp"),
    r"audio_mlp_1": ("mlp", "embed"),
    r"audio_mlp_2": ("embed", "audio"),
    r"(gate_\d/fc\d|fusion_\d/(audio|both))": ("conv_in", "conv_out"),
    r"pixel_decoder/mask_features": ("embed", "embed"),
    r"query_generator/conv_[02]": ("conv_in", "conv_out"),
    r"query_generator/conv_1": CONVOLUTION,
    r"query_generator/mixer_0": ("pixels", "embed"),
    r"query_generator/mixer_1": ("embed", "embed"),
    r"query_generator/mixer_2": ("embed", "queries"),
    r"query_generator/prompt_value": ("embed", "embed"),
    r"decoder/head/class_embed": ("embed", "classes"),
    r"decoder/head/mask_embed_\d": ("embed", "embed"),
    r"similarity/(audio|prototype)_proj": ("embed", "embed"),
}

# Arrays that are no module's kernel, scale or bias.
ARRAYS: dict[str, Axes] = {
    r".*/relative_position_bias": ("places", "heads"),
    r".*/level_embed": ("levels", "embed"),
    r".*/(learnable_query|query|query_features|query_positions)": ("queries", "embed"),
    r"query_generator/prototypes": ("classes", "embed"),
    r"similarity/logit_scale": (),
}

# The blocks of a stage of a PVT v2 or Swin and layers that are alike are scanned: their parameters are stacked on a
# leading axis.
SCANNED = re.compile(r"(\w*backbone/stage\d|.*/layers)/.*")


class AxesError(ValueError):
    """A parameter whose axes the table does not name."""


@functools.cache
def logical_axes(path: str, rank: int) -> Axes:
    """Names the axes of the parameter at `path`, for example "head/decoder/layers/ffn/linear1/kernel".

    Raises:
      AxesError: no line of the table fits, or more than one, or one of another rank.
    """
    module, _, leaf = path.rpartition("/")
    if leaf in ("kernel", "scale", "bias"):
        found = _fitting(MODULES, module)
        axes = found[0][-1:] if found and leaf == "bias" else found[0] if found else ()
    else:
        found = _fitting(ARRAYS, path)
        axes = found[0] if found else ()
    if SCANNED.fullmatch(path):
        axes = ("layers", *axes)
    if len(found) != 1 or len(axes) != rank:
        problem = f"{len(found)} lines fit" if len(found) != 1 else f"{axes} does not fit its {rank} axes"
        raise AxesError(f"parameter {path}: {problem}; name its axes in one line of avs_jax/parallel/axes.py")
    return axes


def _fitting(table: dict[str, Axes], path: str) -> list[Axes]:
    return [axes for pattern, axes in table.items() if re.fullmatch(pattern, path)]
