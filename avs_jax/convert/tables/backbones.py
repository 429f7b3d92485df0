"""Tables of the backbones, under the names that AVSegFormer and AVSBench give them; VGGish under TensorFlow's, too."""

from __future__ import annotations

from avs_jax.backbones import pvt_v2, resnet, swin
from avs_jax.backbones import vggish as audio
from avs_jax.convert.tables import swin as swin_tables
from avs_jax.convert.tables.parts import Entries, batch_norm, conv, dead, linear, norm, weight

RESNET_STAGES = ("layer1", "layer2", "layer3_1", "layer4_1")
RESNET_UNUSED_STAGES = {"layer3_2": 2, "layer4_2": 3}  # copies of the last two stages that no configuration runs
IMAGENET_STAGES = ("layer1", "layer2", "layer3", "layer4")


def backbone(config, source: str, target: str) -> Entries:
    """The image backbone of `config`; `source` and `target` are prefixes that end in "." and "/", or empty."""
    if config.name == "resnet50":
        return resnet_entries(config, source, target)
    if config.name in swin.ARCHITECTURES:
        return swin_tables.entries(config, source, target)
    return pvt_entries(config, source, target)


def imagenet_resnet_entries(config) -> Entries:
    """ResNet-50 as torchvision publishes it, without its classifier."""
    return _resnet(config, IMAGENET_STAGES, "", "")


def resnet_entries(config, source: str, target: str) -> Entries:
    """ResNet-50 with the second, unused copy of its last two stages."""
    entries = _resnet(config, RESNET_STAGES, source, target)
    for name, stage in RESNET_UNUSED_STAGES.items():
        entries += dead(_resnet_stage(config, stage, f"{source}{name}", target))
    return entries


def _resnet(config, stages: tuple[str, ...], source: str, target: str) -> Entries:
    width = resnet.architecture(config)[1][0]
    entries = conv(f"{source}conv1", f"{target}conv1", 3, width, 7, bias=False)
    entries += batch_norm(f"{source}bn1", f"{target}bn1", width)
    for stage, name in enumerate(stages):
        entries += _resnet_stage(config, stage, f"{source}{name}", target)
    return entries


def _resnet_stage(config, stage: int, source: str, target: str) -> Entries:
    depths, widths = resnet.architecture(config)
    planes, outputs = widths[stage], resnet.EXPANSION * widths[stage]
    entries = []
    for block in range(depths[stage]):
        inputs = outputs if block else (resnet.EXPANSION * widths[stage - 1] if stage else widths[0])
        theirs, ours = f"{source}.{block}", f"{target}stage{stage + 1}_block{block}"
        for i, (a, b, size) in enumerate(((inputs, planes, 1), (planes, planes, 3), (planes, outputs, 1)), 1):
            entries += conv(f"{theirs}.conv{i}", f"{ours}/conv{i}", a, b, size, bias=False)
            entries += batch_norm(f"{theirs}.bn{i}", f"{ours}/bn{i}", b)
        if block == 0:
            entries += conv(f"{theirs}.downsample.0", f"{ours}/shortcut_conv", inputs, outputs, 1, bias=False)
            entries += batch_norm(f"{theirs}.downsample.1", f"{ours}/shortcut_bn", outputs)
    return entries


def pvt_entries(config, source: str, target: str) -> Entries:
    """PVT v2; our blocks of a stage are stacked."""
    stages = pvt_v2.architecture(config)
    entries = []
    for i, (width, depth) in enumerate(zip(stages.widths, stages.depths, strict=True)):
        inputs, size = (stages.widths[i - 1], 3) if i else (3, 7)
        name = f"patch_embed{i + 1}"
        entries += conv(f"{source}{name}.proj", f"{target}{name}/proj", inputs, width, size)
        entries += norm(f"{source}{name}.norm", f"{target}{name}/norm", width)
        for block in range(depth):
            entries += _pvt_block(stages, i, block, f"{source}block{i + 1}.{block}", f"{target}stage{i + 1}")
        entries += norm(f"{source}norm{i + 1}", f"{target}norm{i + 1}", width)
    return entries


def _pvt_block(stages: pvt_v2.Architecture, i: int, block: int, source: str, target: str) -> Entries:
    width, reduction, hidden = stages.widths[i], stages.reductions[i], stages.widths[i] * stages.mlp_ratios[i]
    entries = norm(f"{source}.norm1", f"{target}/norm1", width, block)
    entries += linear(f"{source}.attn.q", f"{target}/attn/q", width, width, block=block)
    entries += linear(f"{source}.attn.kv", f"{target}/attn/kv", width, 2 * width, block=block)
    entries += linear(f"{source}.attn.proj", f"{target}/attn/proj", width, width, block=block)
    if reduction > 1:
        entries += conv(f"{source}.attn.sr", f"{target}/attn/sr", width, width, reduction, block=block)
        entries += norm(f"{source}.attn.norm", f"{target}/attn/norm", width, block)
    entries += norm(f"{source}.norm2", f"{target}/norm2", width, block)
    entries += linear(f"{source}.mlp.fc1", f"{target}/mlp/fc1", width, hidden, block=block)
    entries += conv(f"{source}.mlp.dwconv.dwconv", f"{target}/mlp/dwconv", 1, hidden, 3, block=block)
    entries += linear(f"{source}.mlp.fc2", f"{target}/mlp/fc2", hidden, width, block=block)
    return entries


def vggish(config, source: str, target: str) -> Entries:
    """VGGish; PyTorch numbers its layers with the ReLUs and pools between them."""
    entries, inputs, layer = [], 1, 0
    for stage, (width, convs) in enumerate(zip(config.widths, audio.CONVS_PER_STAGE, strict=True)):
        for i in range(convs):
            entries += conv(f"{source}features.{layer}", f"{target}conv{stage}_{i}", inputs, width, 3)
            inputs, layer = width, layer + 2
        layer += 1
    widths = (audio.FLAT_POSITIONS * inputs, config.hidden_dim, config.hidden_dim, config.embedding_dim)
    for i in range(3):
        entries += linear(f"{source}embeddings.{2 * i}", f"{target}fc{i}", widths[i], widths[i + 1])
    return entries


def vggish_tensorflow(config, suffix: str) -> Entries:
    """VGGish as it was first released, a checkpoint of TensorFlow: kernels lie as ours do.

    `suffix` ends every name: ":0" where TensorFlow's variables were listed, nothing where its checkpoint was.
    """
    layers, inputs = [], 1
    for stage, (width, convs) in enumerate(zip(config.widths, audio.CONVS_PER_STAGE, strict=True), 1):
        for i in range(convs):
            name = f"conv{stage}" if convs == 1 else f"conv{stage}/conv{stage}_{i + 1}"
            layers.append((name, f"conv{stage - 1}_{i}", (3, 3, inputs, width)))
            inputs = width
    widths = (audio.FLAT_POSITIONS * inputs, config.hidden_dim, config.hidden_dim, config.embedding_dim)
    for i, name in enumerate(("fc1/fc1_1", "fc1/fc1_2", "fc2")):
        layers.append((name, f"fc{i}", widths[i : i + 2]))
    entries = []
    for name, target, shape in layers:
        entries.append(weight(f"vggish/{name}/weights{suffix}", shape, f"{target}/kernel"))
        entries.append(weight(f"vggish/{name}/biases{suffix}", shape[-1:], f"{target}/bias"))
    return entries
