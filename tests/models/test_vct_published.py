"""VCT against the published model: query generation, decoder, and a whole model at full size."""

from __future__ import annotations

import functools

import golden
import jax
import numpy as np
import pytest

from avs_jax.convert import rules
from avs_jax.convert.tables import vct as table
from avs_jax.layers.mask_decoder import MaskedDecoder
from avs_jax.models.outputs import query_scores
from avs_jax.models.vct import VCT, PrototypeSimilarity, QueryGenerator, num_head_classes
from tests.models.published_vct import image, nchw, nhwc, published_config

TOLERANCE = 1e-4  # of an array's range
NEAR_TIES = 5  # pixels that may choose another query


def assert_close(case, name, array):
    """Within the tolerance, or within what the reference's own rounding moves where a near tie was decided."""
    difference = case.check(name, array)
    assert difference.max_abs < max(TOLERANCE * difference.golden_max_abs, difference.reference_noise or 0), name


def predictor_params(case, config):
    """Of a case whose state dict is a part of the whole model's."""
    entries = [e for e in table.entries(config) if e.source in case.state_dict]
    return rules.from_torch(case.state_dict, entries)["params"]


@pytest.mark.parametrize(("name", "task"), (("ppqg_k71", "avss"), ("vcq_ms3", "ms3")))
def test_query_generation(name, task):
    case = golden.load(f"vct/{name}")
    config = published_config(task)
    module, audio = QueryGenerator(config), np.zeros((2, 6, 4, config.embed_dim), np.float32)
    apply = jax.jit(functools.partial(module.apply, mutable=["intermediates"]))
    params = predictor_params(case, config)["query_generator"]
    (queries, prototypes), sown = apply({"params": params}, nhwc(case.inputs["mask_features"]), audio)
    sown = sown["intermediates"]

    assert_close(case, "pre_proj", nchw(sown["pixels"][0]))
    assert_close(case, "query_mixer", np.swapaxes(sown["visual_embeddings"][0], 1, 2))
    assert (prototypes is None) == (task == "ms3")
    if task == "avss":
        assert_close(case, "pre_attn", np.swapaxes(sown["prompted"][0], 0, 1))
    index = np.argmax(sown["grouping"]["assignment"][0], axis=1)
    assert np.count_nonzero(index != case.stored("assign_index")) <= NEAR_TIES
    assert_close(case, "queries", np.swapaxes(queries, 0, 1))


@pytest.mark.parametrize(("name", "task"), (("avss", "avss"), ("s4_fullmask", "s4")))
def test_every_layer_of_the_decoder(name, task):
    case = golden.load(f"vct/transformer_decoder_{name}")
    config = published_config(task)
    audio, *maps = (nhwc(case.inputs[x]) for x in ("audio", "x0", "x1", "x2"))
    mask_features = nhwc(case.inputs["mask_features"])
    decoder = MaskedDecoder(config.num_queries, num_head_classes(config))

    @jax.jit
    def run(params):
        queries, prototypes = QueryGenerator(config).apply({"params": params["query_generator"]}, mask_features, audio)
        predictions, sown = decoder.apply(
            {"params": params["decoder"]}, (audio, *maps), mask_features, queries, (0,), mutable=["intermediates"]
        )
        return predictions, sown["intermediates"], prototypes

    params = predictor_params(case, config)
    predictions, sown, prototypes = run(params)
    for i in range(9):
        assert_close(case, f"layer{i}", np.swapaxes(sown[f"decoder_{i}"][0], 0, 1))
    for i in range(10):
        assert_close(case, f"pred{i}/logits", predictions.class_logits[i])
        assert_close(case, f"pred{i}/masks", predictions.mask_logits[i])

    similarity = params["similarity"]
    found = PrototypeSimilarity("released").apply({"params": similarity | {"logit_scale": 1.5}}, audio, prototypes)
    sound = unit(np.mean(audio, axis=(1, 2)) @ similarity["audio_proj"]["kernel"])
    kinds = unit(np.float64(prototypes) @ similarity["prototype_proj"]["kernel"])
    assert_close(case, "feats/audio_feat", sound)
    assert_close(case, "feats/proto_feat", np.broadcast_to(kinds, (2, *kinds.shape)))
    np.testing.assert_allclose(found, np.exp(1.5) * sound @ kinds.T, atol=1e-4)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize(
    ("name", "config"),
    (
        ("vct_swinb384_s4", published_config("s4")),
        ("vct_pvtv2_224_ms3", published_config("ms3", "pvt_v2_b5", 224)),
    ),
    ids=("swin_b at 384", "pvt_v2_b5 at 224"),
)
def test_the_whole_model(name, config):
    case = golden.load(f"vct/{name}")
    variables = rules.from_torch(case.state_dict, table.entries(config))
    inputs = {
        "frames": image(case.inputs["frames"]),
        "pre_masks": image(case.inputs["pre_masks"]),
        "log_mel": case.inputs["audio_log_mel"].reshape(1, 2, 96, 64),
    }

    @jax.jit
    def run(params, inputs):
        outputs, sown = VCT(config).apply({"params": params}, inputs, mutable=["intermediates"])
        return outputs, query_scores(outputs, (224, 224)), sown["intermediates"]

    outputs, scores, sown = run(variables["params"], inputs)
    for i in range(4):
        assert_close(case, f"scale_factor/res{i + 2}", sown[f"channel_gate_{i}"][0][:, 0, 0])
        assert_close(case, f"fused/res{i + 2}", nchw(sown[f"fused_{i}"][0]))
    for i in range(3):
        assert_close(case, f"multi_scale/{i}", nchw(sown[f"multi_scale_{i}"][0]))
    assert_close(case, "mask_features", nchw(sown["mask_features"][0]))
    assert_close(case, "audio_backbone", nchw(sown["vggish_features"][0]))
    assert_close(case, "audio_tokens", np.swapaxes(sown["audio_tokens"][0], 1, 2))
    assert_close(case, "vision_queries", np.swapaxes(sown["query_generator"]["vision_queries"][0], 0, 1))
    index = np.argmax(sown["query_generator"]["grouping"]["assignment"][0], axis=1)
    assert np.count_nonzero(index != case.stored("assign_index")) <= NEAR_TIES

    assert (outputs.prototype_logits is None) == (config.query_generator.prototypes == 0)
    assert_close(case, "pred_logits", outputs.class_logits[-1, 0])
    for name in ("pred_masks", "pred_masks_all_frames"):
        assert_close(case, name, outputs.mask_logits[-1, 0])
    for i in range(9):
        assert_close(case, f"aux{i}/pred_logits", outputs.class_logits[i, 0])
        assert_close(case, f"aux{i}/pred_masks", outputs.mask_logits[i, 0])
    assert_close(case, "sem_seg", nchw(scores[0]))
