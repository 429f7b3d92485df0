"""Published files of backbones: names, shapes and round trips of whole files, features at full size, errors."""

import functools
import pickle
import types

import golden
import jax
import numpy as np
import pytest

from avs_jax import backbones, convert
from avs_jax.backbones import swin
from tests.convert.arrays import assert_same

TOLERANCE = 1e-5  # of an output's range


def config(name, window=7, flavour="detection", **changes):
    settings = {"depths": (), "widths": (), "drop_path": 0.1, "window": window, "flavour": flavour}
    return types.SimpleNamespace(name=name, **settings | changes)


def index_buffers(case):
    """Swin's integer buffers, which are not made by the rule."""
    shapes = {k: v["shape"] for k, v in case.manifest.get("buffers", {}).items()}
    shapes |= case.manifest.get("not_from_rule", {})
    windows = {name: round(np.prod(shape) ** 0.25) for name, shape in shapes.items()}
    return {name: swin.relative_position_index(windows[name]).reshape(shape) for name, shape in shapes.items()}


def counted(case):
    """A file with the case's names and shapes whose every element differs from its neighbours."""
    shapes = {k: v for k, v in case.manifest["state_dict"].items() if k not in index_buffers(case)}
    made = {
        name: np.arange(i, i + int(np.prod(shape)), dtype=np.float32).reshape(shape)
        for i, (name, shape) in enumerate(shapes.items())
    }
    counters = {name: np.zeros((), np.int64) for name in shapes if name.endswith("num_batches_tracked")}
    return made | counters | index_buffers(case)


FILES = {
    "hf/resnet_50_224": ("huggingface", config("resnet50")),
    "hf/pvt_v2_b0_224": ("huggingface", config("pvt_v2_b0")),
    "hf/timm_pvt_v2_b5_224": ("timm", config("pvt_v2_b5")),
    "hf/swin_base_patch4_window7_224": ("huggingface", config("swin_b", 7, "classification")),
    "hf/swin_base_patch4_window12_384": ("huggingface", config("swin_b", 12, "classification")),
    "hf/timm_swin_base_384": ("timm", config("swin_b", 12, "classification")),
    "hf/torchvision_resnet50": ("torchvision", config("resnet50")),
    "hf/torchvision_swin_t": ("torchvision", config("swin_t", 7, "classification")),
    "vct/swinb_pad": ("authors", config("swin_b", 12)),
}


@pytest.mark.parametrize("name", FILES)
def test_every_entry_of_a_file_is_mapped_and_comes_back_bit_for_bit(name):
    publisher, settings = FILES[name]
    file = {k.removeprefix("backbone."): v for k, v in counted(golden.load(name)).items()}
    variables = convert.backbone_from_torch(file, settings)
    assert_same(convert.backbone_to_torch(variables, settings, publisher), file)


@functools.cache
def rule_file(name):
    """The case, and the file that its outputs were computed from."""
    case = golden.load(name)
    state_dict = case.state_dict | index_buffers(case)
    return case, {k.removeprefix("backbone."): v for k, v in state_dict.items()}


def features(name, settings):
    """The four maps and what was sown on the way, in PyTorch's layout."""
    case, file = rule_file(name)
    module = backbones.create(settings)
    (image,) = case.inputs.manifest
    frames = case.inputs[image].transpose(0, 2, 3, 1)
    variables = {k: v for k, v in convert.backbone_from_torch(file, settings).items() if k != "dead"}
    maps, sown = jax.jit(lambda v, x: module.apply(v, x, mutable=["intermediates"]))(variables, frames)
    sown = {k: v[0].transpose(0, 3, 1, 2) for k, v in sown.get("intermediates", {}).items()}
    return case, [np.asarray(m.transpose(0, 3, 1, 2)) for m in maps], sown


def assert_close(case, name, found, tolerance=TOLERANCE):
    difference = case.check(name, found)
    assert difference.max_abs <= tolerance * difference.golden_max_abs, (name, difference)


def test_resnet_50_of_hugging_face_gives_its_features():
    case, maps, sown = features("hf/resnet_50_224", config("resnet50"))
    assert_close(case, "hidden_state_0", sown["max_pool"])
    for i, found in enumerate(maps, 1):
        assert_close(case, f"hidden_state_{i}", found)
    file = rule_file("hf/resnet_50_224")[1]
    logits = maps[3].mean((2, 3)) @ file["classifier.1.weight"].T + file["classifier.1.bias"]
    assert_close(case, "logits", logits)


def test_pvt_v2_of_hugging_face_gives_its_features():
    case, maps, _ = features("hf/pvt_v2_b0_224", config("pvt_v2_b0"))
    for i, found in enumerate(maps):
        assert_close(case, f"hidden_state_{i}", found, 3e-5)  # its patch embeddings' epsilon is 1e-6, the authors' 1e-5


def test_swin_of_hugging_face_gives_its_features_as_a_classifier():
    settings = config("swin_b", 12, "classification")
    case, maps, sown = features("hf/swin_base_patch4_window12_384", settings)
    assert_close(case, "hidden_state_4", sown["map4"])
    tokens = maps[3].reshape(1, 1024, 144).transpose(0, 2, 1)
    assert_close(case, "last_hidden_state", tokens)
    file = rule_file("hf/swin_base_patch4_window12_384")[1]
    assert_close(case, "logits", tokens.mean(1) @ file["classifier.weight"].T + file["classifier.bias"])


def test_swin_of_hugging_face_gives_its_features_as_a_detectors_backbone():
    case, _, sown = features("hf/swin_base_patch4_window12_384", config("swin_b", 12))
    for i in range(1, 5):
        assert_close(case, f"backbone_stage{i}_without_norm", sown[f"map{i}"])


def test_swin_inside_vct_gives_its_features_where_everything_is_padded():
    case, maps, _ = features("vct/swinb_pad", config("swin_b", 12))
    for i, found in enumerate(maps, 2):
        assert_close(case, f"res{i}", found)


@pytest.mark.parametrize("publisher, window, stage", [("torchvision", 4, "stage"), ("timm", 2, "layer")])
def test_swin_of_torchvision_and_of_timm_at_small_widths(publisher, window, stage):
    """Its maps of 18, 9, 5 and 3 tokens a side are no multiples of the windows. timm's layers start with merging."""
    name = f"hf/{publisher}_swin_small_widths"
    settings = config("swin_t", window, "classification", depths=(2, 2, 4, 2), widths=(6, 12, 24, 48))
    case, maps, sown = features(name, settings)
    for i in range(1, 5):
        assert_close(case, f"{stage}{i}", sown[f"map{i}"])
    file = rule_file(name)[1]
    head = "head" if publisher == "torchvision" else "head.fc"
    logits = maps[3].mean((2, 3)) @ file[f"{head}.weight"].T + file[f"{head}.bias"]
    assert_close(case, "logits", logits)
    variables = convert.backbone_from_torch(file, settings)
    assert_same(convert.backbone_to_torch(variables, settings, publisher), file)


def detectron2_name(name):
    """What detectron2's script for torchvision's ResNets makes of an entry's name."""
    name = name if "layer" in name else f"stem.{name}"
    for i in range(1, 5):
        name = name.replace(f"layer{i}", f"res{i + 1}").replace(f"bn{i}", f"conv{i}.norm")
    return name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


def test_resnet_50_of_detectron2_is_torchvision_s():
    file = counted(golden.load("hf/torchvision_resnet50"))
    renamed = {detectron2_name(name): array for name, array in file.items()}
    assert {"stem.conv1.norm.running_var", "res2.0.shortcut.norm.bias", "res5.2.conv3.weight"} <= renamed.keys()
    settings = config("resnet50")
    variables = convert.backbone_from_torch(renamed, settings)
    expected = convert.backbone_from_torch(file, settings)
    jax.tree.map(np.testing.assert_array_equal, variables["params"], expected["params"])
    assert_same(convert.backbone_to_torch(variables, settings, "detectron2"), renamed)


def test_detectron2_s_pickle_is_read(tmp_path):
    file = small_file("resnet50", "detectron2")
    content = {"model": file, "__author__": "torchvision", "matching_heuristics": True}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(content))
    variables = convert.backbone_from_torch(convert.read(tmp_path / "R-50.pkl"), SMALL["resnet50"])
    expected = small_variables("resnet50")["params"]
    jax.tree.map(np.testing.assert_array_equal, variables["params"], expected)


SMALL = {
    "resnet50": config("resnet50", depths=(1, 1, 1, 1), widths=(2, 3, 4, 5)),
    "pvt_v2_b0": config("pvt_v2_b0", depths=(1, 1, 2, 1), widths=(2, 4, 10, 8)),
    "swin_t": config("swin_t", 2, "classification", depths=(2, 2, 4, 2), widths=(3, 6, 12, 24)),
    "swin_b": config("swin_b", 2, depths=(2, 2, 4, 2), widths=(4, 8, 16, 32)),
}
PUBLISHERS = [
    ("resnet50", "torchvision"),
    ("resnet50", "avsegformer"),
    ("resnet50", "huggingface"),
    ("resnet50", "detectron2"),
    ("pvt_v2_b0", "authors"),
    ("pvt_v2_b0", "timm"),
    ("pvt_v2_b0", "huggingface"),
    ("swin_t", "authors"),
    ("swin_t", "timm"),
    ("swin_t", "torchvision"),
    ("swin_t", "huggingface"),
    ("swin_b", "authors"),
    ("swin_b", "huggingface"),
]


def small_variables(name):
    shapes = jax.eval_shape(backbones.create(SMALL[name]).init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(tree, [rng.standard_normal(x.shape, np.float32) for x in leaves])


@pytest.mark.parametrize("name, publisher", PUBLISHERS)
def test_what_was_trained_here_goes_out_under_any_name_and_comes_back(name, publisher):
    variables = small_variables(name)
    file = convert.backbone_to_torch(variables, SMALL[name], publisher)
    back = convert.backbone_from_torch(file, SMALL[name])
    jax.tree.map(np.testing.assert_array_equal, {k: back[k] for k in variables}, dict(variables))


def small_file(name, publisher):
    return convert.backbone_to_torch(small_variables(name), SMALL[name], publisher)


def test_the_authors_swin_classifier_starts_a_detectors_backbone():
    tokens, settings = 4, SMALL["swin_t"]
    file = small_file("swin_t", "authors") | {
        "head.weight": np.ones((21841, 24), np.float32),  # of ImageNet-22k
        "head.bias": np.ones(21841, np.float32),
        "layers.0.blocks.1.attn_mask": np.zeros((64, tokens, tokens), np.float32),
        "layers.2.blocks.3.attn_mask": np.zeros((4, tokens, tokens), np.float32),
    }
    classifier = convert.backbone_from_torch(file, settings)
    assert_same(convert.backbone_to_torch(classifier, settings, "authors"), file)
    detector = convert.backbone_from_torch(file, types.SimpleNamespace(**vars(settings) | {"flavour": "detection"}))
    params = detector["params"]
    np.testing.assert_array_equal(params["norm2"]["scale"], np.ones(6))
    np.testing.assert_array_equal(params["norm2"]["bias"], np.zeros(6))
    shared = classifier["params"].keys() - {"norm"}
    assert params.keys() == shared | {"norm1", "norm2", "norm3", "norm4"}
    jax.tree.map(
        np.testing.assert_array_equal, {k: params[k] for k in shared}, {k: classifier["params"][k] for k in shared}
    )


def test_old_files_without_counters_and_half_precision_are_taken():
    file = small_file("resnet50", "torchvision")
    old = {k: np.float16(v) for k, v in file.items() if "num_batches_tracked" not in k}
    variables = convert.backbone_from_torch(old, SMALL["resnet50"])
    assert {a.dtype for a in jax.tree.leaves(variables)} == {np.dtype("float32")}


def test_a_file_of_another_backbone_is_refused_with_the_known_namings():
    with pytest.raises(convert.ConversionError) as error:
        convert.backbone_from_torch(small_file("swin_b", "authors"), SMALL["pvt_v2_b0"])
    message = str(error.value)
    assert "no known file of model.backbone.name 'pvt_v2_b0'" in message
    assert all(name in message for name in ("authors: patch_embed1", "timm: stages.0", "huggingface: pvt_v2."))


def test_everything_that_does_not_fit_is_listed_under_the_files_names():
    file = small_file("swin_t", "huggingface")
    del file["swin.encoder.layers.1.blocks.0.attention.self.key.weight"]
    file["swin.encoder.layers.0.blocks.0.layernorm_after.bias"] = np.zeros(5, np.float32)
    file["swin.extra"] = np.zeros(1, np.float32)
    with pytest.raises(convert.ConversionError) as error:
        convert.backbone_from_torch(file, SMALL["swin_t"])
    message = str(error.value)
    assert "missing: swin.encoder.layers.1.blocks.0.attention.self.qkv.weight" in message
    assert "left over: swin.encoder.layers.1.blocks.0.attention.self.query.weight" in message
    assert "left over: swin.extra" in message
    assert "of a wrong shape: swin.encoder.layers.0.blocks.0.layernorm_after.bias" in message


def test_a_detectors_file_does_not_make_a_classifier():
    settings = types.SimpleNamespace(**vars(SMALL["swin_b"]) | {"flavour": "classification"})
    with pytest.raises(convert.ConversionError, match=r"left over: norm0\.weight"):
        convert.backbone_from_torch(small_file("swin_b", "authors"), settings)


@pytest.mark.parametrize("name, publisher", [("resnet50", "authors"), ("swin_b", "timm"), ("swin_t", "detectron2")])
def test_an_unknown_publisher_is_named(name, publisher):
    with pytest.raises(convert.ConversionError, match=f"{publisher!r} does not publish {name}; known are"):
        convert.backbone_to_torch({"params": {}}, SMALL[name], publisher)
