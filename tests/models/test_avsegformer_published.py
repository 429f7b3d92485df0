"""AVSegFormer's parts and a whole small head against the published code: values and gradients."""

from __future__ import annotations

import functools
import re

import golden
import jax
import jax.numpy as jnp
import numpy as np

from avs_jax.layers.attention import DecoderLayer
from avs_jax.layers.deformable import DeformableEncoderLayer
from avs_jax.layers.position import cell_centres
from avs_jax.models import avsegformer
from tests.models.published_avsegformer import published_config

FORWARD = 2e-4  # absolute, what two correct float32 implementations meet
GRADIENT = 2e-3  # relative l2

# From the names of the released state dict to ours, in this order.
RENAMED = (
    (r"^transformer\.(encoder|decoder)\.layers\.", r"\1.layer_"),
    (r"layers\.(\d)\.(self|cross|ffn|norm)", r"layer_\1.\2"),
    (r"\blinear(\d)", r"ffn.linear\1"),
    (r"ffn\.0", "ffn.linear1"),
    (r"ffn\.2", "ffn.linear2"),
    (r"^level_embed", "encoder.level_embed"),
    (r"out_proj", "out"),
    (r"query\.weight", "query"),
    (r"^in_proj\.(\d)\.0", r"input_conv_\1"),
    (r"^in_proj\.(\d)\.1", r"input_norm_\1"),
    (r"^lateral_conv\.0", "mask_feature.lateral_conv"),
    (r"^lateral_conv\.1", "mask_feature.lateral_norm"),
    (r"^out_conv\.0", "mask_feature.output_conv"),
    (r"^out_conv\.1", "mask_feature.output_norm"),
    (r"^fusion_block\.", "mixer."),
    (r"\bq_proj", "query"),
    (r"^(mixer\.)?proj\b", r"\1out"),
    (r"^mlp\.layers\.", "predictor.mlp_"),
    (r"^fc\.0", "predictor.tail_0"),
    (r"^fc\.2", "predictor.tail_1"),
    (r"^fc\.4", "predictor.tail_2"),
)
STACKED = {"in_proj": ("query", "key", "value"), "kv_proj": ("key", "value")}


def parameters(state_dict: dict) -> dict:
    """The released state dict as our tree. Differentiable, so gradients come in the layout of the state dict."""
    tree = {}
    for name, array in state_dict.items():
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        *path, last = re.sub(r"in_proj_(weight|bias)", r"in_proj.\1", name).split(".")
        parts, array = STACKED.get(path[-1] if path else "", (None,)), jnp.asarray(array)
        for part, piece in zip(parts, jnp.split(array, len(parts)), strict=True):
            _insert(tree, [*path[:-1], part] if part else path, last, piece)
    return _layers_stacked(tree)


def _layers_stacked(tree: dict) -> dict:
    """`layer_0`, `layer_1` ... of a module as one tree `layers`, on a leading axis."""
    if not isinstance(tree, dict):
        return tree
    tree = {name: _layers_stacked(inner) for name, inner in tree.items()}
    layers = [tree.pop(f"layer_{i}") for i in range(sum(name.startswith("layer_") for name in tree))]
    return tree | {"layers": jax.tree.map(lambda *arrays: jnp.stack(arrays), *layers)} if layers else tree


def _insert(tree: dict, path: list[str], last: str, array: jax.Array) -> None:
    for key in path:
        tree = tree.setdefault(key, {})
    if last not in ("weight", "bias"):
        tree[last] = array
    elif array.ndim == 1:
        tree["bias" if last == "bias" else "scale"] = array
    elif array.ndim == 4 and array.shape[2:] != (1, 1):
        tree["kernel"] = array.transpose(2, 3, 1, 0)
    else:
        tree["kernel"] = array.reshape(array.shape[:2]).T


def nhwc(x: np.ndarray) -> jax.Array:
    return jnp.asarray(x).transpose(0, 2, 3, 1)


def nchw(x: jax.Array) -> np.ndarray:
    return np.asarray(x).transpose(0, 3, 1, 2)


@functools.partial(jax.jit, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0})
def run_with_gradients(function, arguments, cotangent):
    """The function's value, and the gradients of all arguments for the given cotangent."""
    value, backward = jax.vjp(function, *arguments)
    return value, backward(cotangent)


def check(case: golden.Case, outputs: dict, gradients: dict) -> None:
    for name, array in outputs.items():
        assert case.check(name, array).max_abs < FORWARD, name
    for name, array in gradients.items():
        assert case.check(name, array).rel_l2 < GRADIENT, name


def test_query_generator_equals_the_released_one():
    case = golden.load("avsegformer/query_generator")
    generator = avsegformer.QueryGenerator(published_config())

    def run(state, audio):
        return generator.apply({"params": parameters(state)}, audio)

    audio, cotangent = case.inputs["audio_feat"], case.inputs["cotangent"]
    output, (state_gradient, audio_gradient) = run_with_gradients(run, (case.state_dict, audio), cotangent)
    check(
        case,
        {"output": output, "output_two_tokens": jax.jit(run)(case.state_dict, case.inputs["audio_feat_two_tokens"])},
        {"grad_audio_feat": audio_gradient}
        | {
            f"grad_{name}": state_gradient[name]
            for name in (
                "query.weight",
                "layers.0.self_attn.in_proj_weight",
                "layers.0.cross_attn.in_proj_weight",
                "layers.5.ffn.0.weight",
                "layers.5.norm3.weight",
            )
        },
    )
    query_and_key_rows = state_gradient["layers.0.cross_attn.in_proj_weight"][:512]
    assert not np.any(query_and_key_rows), "with one key the softmax is constant"


def test_encoder_layer_equals_the_released_one():
    case = golden.load("avsegformer/encoder_layer")
    shapes = tuple(map(tuple, case.manifest["config"]["spatial_shapes"]))
    reference = jnp.broadcast_to(cell_centres(shapes)[None, :, None], (1, 64, 3, 2))
    layer = DeformableEncoderLayer(8, 4, 2048, 0.1)
    output = jax.jit(layer.apply, static_argnums=(4, 5))(
        {"params": parameters(case.state_dict)}, case.inputs["src"], case.inputs["pos"], reference, shapes, True
    )
    check(case, {"output": output}, {})


def test_decoder_layer_equals_the_released_one():
    case = golden.load("avsegformer/decoder_layer")
    layer = DecoderLayer(8, 2048, 0.1)
    params = {"params": parameters(case.state_dict)}
    output = jax.jit(layer.apply)(params, case.inputs["query"], case.inputs["memory"])
    check(case, {"output": output}, {})


def test_mixer_equals_the_released_one():
    case = golden.load("avsegformer/mixer")
    mixer = avsegformer.ChannelMixer(8, "released", jnp.float32)

    def run(state, feature, audio):
        return mixer.apply({"params": parameters(state)}, feature, audio)

    feature, audio = nhwc(case.inputs["feature_map"]), case.inputs["audio_feat"]
    output, (state_gradient, feature_gradient, audio_gradient) = run_with_gradients(
        run, (case.state_dict, feature, audio), nhwc(case.inputs["cotangent"])
    )
    gradients = {"grad_feature_map": nchw(feature_gradient), "grad_audio_feat": audio_gradient}
    check(case, {"output": nchw(output)}, gradients | {f"grad_{name}": g for name, g in state_gradient.items()})
    one_frame = jax.jit(run)(case.state_dict, feature[:1], audio[:1])  # the released code fails on a single frame
    np.testing.assert_allclose(one_frame, output[:1], atol=1e-6)


def test_head_equals_the_released_one():
    case = golden.load("avsegformer/head_tiny")
    config = published_config(
        num_classes=3,
        num_queries=20,
        query_generator__num_layers=1,
        query_generator__ffn_dim=64,
        encoder__num_layers=2,
        encoder__ffn_dim=64,
        decoder__num_layers=2,
        decoder__ffn_dim=64,
    )
    head = avsegformer.AVSegHead(config)
    state = {name: array for name, array in case.state_dict.items() if not name.startswith(("fpn", "attn_fc"))}

    def run(state, maps, audio):
        outputs = head.apply({"params": parameters(state)}, maps, audio)
        return outputs.mask_logits, outputs.mask_features

    maps = tuple(nhwc(case.inputs[f"feat_{i}"]) for i in range(4))
    (logits, feature), (state_gradient, map_gradients, audio_gradient) = run_with_gradients(
        run,
        (state, maps, case.inputs["audio_feat"]),
        (nhwc(case.inputs["cotangent_pred"]), nhwc(case.inputs["cotangent_mask_feature"])),
    )
    stored = [name for name in case.outputs if name.startswith("grad/")]
    assert len(stored) == 7
    check(
        case,
        {"pred": nchw(logits), "mask_feature": nchw(feature)},
        {f"grad_feat_{i}": nchw(gradient) for i, gradient in enumerate(map_gradients)}
        | {"grad_audio_feat": audio_gradient}
        | {name: state_gradient[name.removeprefix("grad/")] for name in stored},
    )
    norms = case.values["grad_norm"]
    assert set(state_gradient) == set(norms)
    for name, norm in norms.items():
        np.testing.assert_allclose(np.linalg.norm(state_gradient[name]), norm, rtol=GRADIENT, atol=1e-4, err_msg=name)
