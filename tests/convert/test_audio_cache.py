"""Audio embeddings in records: as VGGish gives them, of the clip's own sound alone, and never another VGGish's."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax import config as configuration
from avs_jax import models
from avs_jax.convert import audio_cache, rules, tables
from avs_jax.train import feed, weights
from configs import base
from data_pipeline import convert, loader, records, torch_file
from data_pipeline.problems import BadFile
from tests.integration.test_tasks import tiny_task

SIZES = audio_cache.Sizes(widths=(4, 4, 8, 8), hidden_dim=16)
CLIPS = {"train": 2, "val": 2, "test": 3}


def write_vggish(path, seed):
    draw = np.random.default_rng(seed)
    made = {entry.source: draw.normal(0, 0.2, entry.shape).astype(np.float32) for entry in tables.vggish(SIZES)}
    torch_file.save(path, made)
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return audio_cache.create(write_vggish(tmp_path_factory.mktemp("weights") / "vggish.pth", 0), SIZES)


@pytest.fixture(scope="module")
def folder(cache, tmp_path_factory):
    out = tmp_path_factory.mktemp("records")
    convert.synthetic("avss", out, clips=CLIPS, size=(64, 64), processes=1, progress=False, cache=cache)
    return out


@pytest.fixture
def config(folder):
    config = tiny_task("avss", folder)
    config.model.vggish.update(widths=SIZES.widths, hidden_dim=16, embedding_dim=128, frozen=True)
    config.data.cached_audio = True
    return config


def only_batch(config, audio="true"):
    config.eval.update(batch_size=3, annotated_frames_only=False)
    (batch,) = feed.evaluation_batches(config, "test", audio)
    return batch


def params_of(cache):
    return audio_cache._vggish(cache.embed.weights, SIZES)[0]


def test_records_keep_the_log_mel_and_what_vggish_makes_of_it(folder, cache, config):
    assert records.open_set(folder).vggish == cache.vggish
    found = only_batch(config)
    assert "log_mel" not in found
    config.data.cached_audio = False
    log_mel = only_batch(config)["log_mel"]
    assert (log_mel == 0).all((2, 3)).any()  # where a clip is shorter, VGGish hears zeros, and answers
    for clip in range(3):
        np.testing.assert_allclose(found["audio_embedding"][clip], cache.embed(log_mel[clip]), rtol=1e-6, atol=1e-6)
    assert found["audio_embedding"].std() > 0.01


def test_a_model_hears_the_same_with_and_without(config, cache):
    """Sound enters AVSegFormer as these tokens alone."""
    model, cached = models.create(config.model), only_batch(config)
    config.data.cached_audio = False
    plain = only_batch(config)
    variables = model.init(jax.random.key(0), plain, method="audio_tokens")
    variables["params"]["vggish"] = params_of(cache)
    expected = model.apply(variables, plain, method="audio_tokens")
    np.testing.assert_allclose(model.apply(variables, cached, method="audio_tokens"), expected, atol=1e-6)
    variables["params"]["vggish"] = {}  # is not looked at
    np.testing.assert_allclose(model.apply(variables, cached, method="audio_tokens"), expected, atol=1e-6)


@pytest.mark.parametrize("audio", ["silence", "swap", "noise:0"])
def test_another_sound_is_never_the_cached_one(config, audio):
    heard = only_batch(config, audio)
    assert "audio_embedding" not in heard
    config.data.cached_audio = False
    np.testing.assert_array_equal(heard["log_mel"], only_batch(config, audio)["log_mel"])


def test_another_vggish_is_refused(config, cache):
    params = params_of(cache)
    weights.require_cached_audio({"vggish": params}, config)
    changed = jax.tree.map(lambda x: x, params)
    bias = changed["fc1"]["bias"]
    changed["fc1"]["bias"] = bias.at[3].set(jnp.nextafter(bias[3], jnp.inf))
    with pytest.raises(audio_cache.CacheError, match=r"holds the embeddings of another VGGish.*--config.init_from.vgg"):
        weights.require_cached_audio({"vggish": changed}, config)
    swapped = params | {"conv2_0": params["conv2_1"], "conv2_1": params["conv2_0"]}
    assert audio_cache.fingerprint(swapped) != cache.vggish
    config.data.cached_audio = False
    weights.require_cached_audio({"vggish": changed}, config)
    with pytest.raises(convert.ConvertError, match="holds a complete set made from other data"):
        convert.synthetic("avss", config.data.records, clips=CLIPS, size=(64, 64), processes=1, progress=False)


def test_records_without_embeddings_are_named(config, tmp_path):
    convert.synthetic("avss", tmp_path, clips={"test": 1}, size=(64, 64), processes=1, progress=False)
    config.data.records = str(tmp_path)
    message = "holds no audio embeddings: convert the data set again with --cache-audio"
    with pytest.raises(loader.LoaderError, match=message):
        only_batch(config)
    with pytest.raises(audio_cache.CacheError, match=message):
        weights.require_cached_audio({"vggish": {}}, config)


def test_what_is_no_published_vggish_is_refused(tmp_path):
    with pytest.raises(BadFile, match="holds no VGGish as published"):
        audio_cache.create(write_vggish(tmp_path / "small.pth", 0))
    torch_file.save(tmp_path / "other.pth", {"a": np.zeros(3, np.float32)})
    assert convert.main(
        ["--dataset", "synthetic", "--out", str(tmp_path / "out"), "--cache-audio", str(tmp_path / "other.pth")]
    )
    assert issubclass(audio_cache.CacheError, rules.ConversionError)  # which the command line shows as one line


def test_the_embedder_goes_to_other_processes(cache):
    log_mel = np.full((2, 96, 64), -3, np.float32)
    again = pickle.loads(pickle.dumps(cache))
    np.testing.assert_array_equal(again.embed(log_mel), cache.embed(log_mel))


@pytest.mark.parametrize(
    ("system", "change", "message"),
    [
        ("avsegformer", {"frozen": False}, r"data.cached_audio: only with model.vggish.frozen=True"),
        ("vct", {}, r"data.cached_audio: not with model.name='vct'"),
    ],
)
def test_models_that_cannot_use_it_are_named(system, change, message):
    config = base.get_config("s4", system=system)
    config.data.cached_audio = True
    config.model.vggish.update(change)
    with pytest.raises(configuration.ConfigError, match=message):
        configuration.validate(config)
