"""Swin's windows, shifts and biases against their definitions; its two flavours, sizes, gradients and errors."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax import backbones
from avs_jax.backbones import swin


def config(name="swin_b", **changes):
    settings = {"depths": (), "widths": (), "drop_path": 0.0, "window": 7, "flavour": "detection"}
    return types.SimpleNamespace(name=name, **settings | changes)


def small(**changes):
    """Four stages of one pair each, with maps of 8, 4, 2 and 1 windows for an image of 64 pixels."""
    return config(**{"depths": (2, 2, 2, 2), "widths": (8, 16, 16, 32), "window": 2} | changes)


@functools.cache
def initialised():
    """Variables of `small()`, random everywhere, and frames for it."""
    rng = np.random.default_rng(0)
    frames = rng.standard_normal((2, 64, 64, 3), np.float32)
    shapes = jax.eval_shape(backbones.create(small()).init, jax.random.key(0), frames)
    return jax.tree.map(lambda x: np.float32(0.1) * rng.standard_normal(x.shape, np.float32), shapes), frames


def block(dtype="float32", shift=1):
    """One block, its variables and a map that its windows do not divide."""
    module = swin.Block(heads=2, window=2, shift=shift, dtype=dtype)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((64, 3, 5, 8)).astype(dtype)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x, None)
    return module, jax.tree.map(lambda p: rng.standard_normal(p.shape).astype(p.dtype), shapes), x


@functools.partial(jax.jit, static_argnums=0)
def run(module, variables, frames):
    """The maps, and the maps before their norms."""
    maps, sown = module.apply(variables, frames, mutable=["intermediates"])
    return maps, [sown["intermediates"][f"map{i}"][0] for i in range(1, 5)]


def layer_norm(x, params):
    x = np.float64(x)
    normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return normed * params["scale"] + params["bias"]


@pytest.mark.parametrize("window", [1, 2, 3, 7])
def test_the_bias_of_a_pair_depends_on_its_offset_alone(window):
    index = swin.relative_position_index(window)
    offsets = {}
    for query in range(window**2):
        for key in range(window**2):
            dy, dx = np.subtract(divmod(query, window), divmod(key, window))
            assert index[query, key] == offsets.setdefault((dy, dx), index[query, key])
    assert sorted(offsets.values()) == list(range((2 * window - 1) ** 2))
    assert index[0, -1] == 0  # the first row of the table: the query farthest above and left of its key


@pytest.mark.parametrize("height, width, window, shift", [(4, 4, 4, 2), (7, 14, 7, 3), (12, 8, 4, 2), (6, 9, 3, 1)])
def test_two_tokens_share_a_region_where_rolling_kept_them_apart_as_before(height, width, window, shift):
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    before = np.stack([rows, columns], -1)
    rolled = np.roll(before, (-shift, -shift), (0, 1))
    origin, place = (np.asarray(swin.windows(x[None], window))[0] for x in (rolled, before))
    kept = (origin[:, :, None] - origin[:, None] == place[:, :, None] - place[:, None]).all(-1)
    region = swin.shift_regions(height, width, window, shift)
    np.testing.assert_array_equal(region[:, :, None] == region[:, None], kept)


def test_windows_are_cut_row_by_row_and_put_back():
    x = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    cut = swin.windows(x, 2)
    np.testing.assert_array_equal(cut[1, 4], x[1, 2:4, 2:4].reshape(4, 3))
    np.testing.assert_array_equal(swin.from_windows(cut, 4, 6), x)


def test_attention_equals_its_definition_token_by_token():
    heads, window, shift, width = 2, 2, 1, 4
    layer = swin.WindowAttention(heads, window, shift)
    x = jax.random.normal(jax.random.key(2), (1, 3, 5, width))
    params = layer.init(jax.random.key(3), x)["params"]
    params = jax.tree.map(lambda p: jax.random.normal(jax.random.key(p.size), p.shape), params)
    expected = attention_by_definition(jax.tree.map(np.float64, params), np.float64(x), heads, window, shift)
    np.testing.assert_allclose(layer.apply({"params": params}, x), expected, atol=2e-5)


def attention_by_definition(params, x, heads, window, shift):
    """Every token of the padded map attends to those of its window that rolling did not bring there."""
    _, h, w, c = x.shape
    height, width = -(-h // window) * window, -(-w // window) * window
    padded = np.zeros((height, width, c))
    padded[:h, :w] = x[0]
    q, k, v = (padded @ params[name]["kernel"] + params[name]["bias"] for name in ("query", "key", "value"))
    out = np.zeros_like(padded)
    place = {(y, z): ((y - shift) % height, (z - shift) % width) for y in range(height) for z in range(width)}
    for query, (y, z) in place.items():
        keys = [t for t, (ky, kz) in place.items() if (ky // window, kz // window) == (y // window, z // window)]
        apart = [np.subtract(place[query], place[t]) for t in keys]
        strange = [any(np.subtract(query, t) != offset) for t, offset in zip(keys, apart, strict=True)]
        rows = [(dy + window - 1) * (2 * window - 1) + dx + window - 1 for dy, dx in apart]
        for head in range(heads):
            part = slice(head * c // heads, (head + 1) * c // heads)
            logits = np.array([q[query][part] @ k[t][part] for t in keys]) / np.sqrt(c // heads)
            logits += params["relative_position_bias"][rows, head] - 100.0 * np.array(strange)
            weights = np.exp(logits - logits.max())
            out[query][part] = weights / weights.sum() @ np.array([v[t][part] for t in keys])
    return (out @ params["proj"]["kernel"] + params["proj"]["bias"])[None, :h, :w]


# Parameters, and those of them that are the last layer's.
PUBLISHED = {"swin_t": 28_288_354, "swin_s": 49_606_258, "swin_b": 87_768_224}
HEAD = {"swin_t": 769_000, "swin_s": 769_000, "swin_b": 1_025_000}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_classifier_has_the_published_number_of_parameters(name):
    module = backbones.create(config(name, flavour="classification"))
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    assert sum(p.size for p in jax.tree.leaves(shapes["params"])) == PUBLISHED[name] - HEAD[name]


def test_maps_have_the_announced_channels_and_sizes_rounded_up():
    module, frames = backbones.create(small()), jnp.zeros((1, 61, 39, 3))
    maps, _ = jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x), frames)
    assert [m.shape for m in maps] == [(1, 16, 10, 8), (1, 8, 5, 16), (1, 4, 3, 16), (1, 2, 2, 32)]
    assert backbones.channels(small()) == (8, 16, 16, 32)


def test_the_flavours_differ_in_the_norms_and_where_one_window_covers_the_map():
    variables, frames = initialised()
    common = {k: v for k, v in variables["params"].items() if not k.startswith("norm")}
    own = {"params": common | {"norm": variables["params"]["norm4"]}}
    maps, before = run(backbones.create(small()), variables, frames)
    other_maps, other_before = run(backbones.create(small(flavour="classification")), own, frames)
    for mine, theirs in zip(before[:3], other_before[:3], strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
    assert np.abs(before[3] - other_before[3]).max() > 1e-4
    np.testing.assert_array_equal(other_maps[0], other_before[0])
    for i, (mine, un_normed) in enumerate(zip(maps, before, strict=True), 1):
        np.testing.assert_allclose(mine, layer_norm(un_normed, variables["params"][f"norm{i}"]), atol=1e-5)
    np.testing.assert_allclose(other_maps[3], layer_norm(other_before[3], own["params"]["norm"]), atol=1e-5)


def test_drop_path_acts_in_training():
    variables, frames = initialised()
    module = backbones.create(small(drop_path=0.5))

    @jax.jit
    def in_training(key):
        return module.apply(variables, frames, train=True, rngs={"dropout": key})[3]

    first, second = (in_training(jax.random.key(seed)) for seed in (0, 1))
    np.testing.assert_array_equal(first, in_training(jax.random.key(0)))
    assert np.abs(first - second).max() > 1e-3


def test_drop_path_drops_whole_samples_and_scales_the_others():
    module, variables, x = block()
    key = {"dropout": jax.random.key(5)}
    _, seen = module.apply(variables, x, np.float32(0.25), rngs=key, capture_intermediates=True)
    branch, after = (seen["intermediates"][name]["__call__"][0] for name in ("attn", "norm2"))
    without, with_it = (layer_norm(x + factor * branch, variables["params"]["norm2"]) for factor in (0, 1 / 0.75))
    dropped = np.abs(after - without).max((1, 2, 3)) < 1e-4
    np.testing.assert_allclose(after, np.where(dropped[:, None, None, None], without, with_it), atol=1e-4)
    assert 5 <= dropped.sum() <= 30  # of 64 samples at a rate of a quarter


def test_bfloat16_computes_in_bfloat16_from_float32_parameters():
    module = backbones.create(small(), "bfloat16")
    maps, variables = jax.eval_shape(
        lambda x: module.init_with_output(jax.random.key(0), x), jnp.zeros((1, 64, 64, 3), jnp.float32)
    )
    assert {p.dtype for p in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert {m.dtype for m in maps} == {jnp.dtype("bfloat16")}
    (rounded, variables, x), (exact, _, _) = block("bfloat16"), block()
    difference = np.float32(rounded.apply(variables, x, None)) - exact.apply(variables, np.float32(x), None)
    assert np.sqrt(np.mean(difference**2)) < 0.02 * np.std(exact.apply(variables, np.float32(x), None))


@pytest.mark.parametrize("flavour", swin.FLAVOURS)
def test_what_blocks_of_bfloat16_add_to_is_float32(flavour):
    variables, frames = initialised()
    params = variables["params"] | {"norm": variables["params"]["norm4"]}
    module = backbones.create(small(flavour=flavour), "bfloat16")
    maps, before = jax.eval_shape(functools.partial(run, module), {"params": params}, frames)
    assert {x.dtype for x in before} == {jnp.dtype("float32")}
    assert {x.dtype for x in maps} == {jnp.dtype("bfloat16")}


def test_gradients_agree_with_finite_differences():
    with jax.enable_x64(True):
        module, variables, x = block("float64")
        variables = jax.tree.map(np.float64, variables)

        @jax.jit
        def loss_and_gradient(v):
            return jax.value_and_grad(lambda v: jnp.sum(jnp.sin(module.apply(v, x, None))))(v)

        direction = jax.tree.map(lambda p: np.random.default_rng(p.size).standard_normal(p.shape), variables)
        _, gradient = loss_and_gradient(variables)
        slope = sum(np.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
        ahead, behind = (
            loss_and_gradient(jax.tree.map(lambda p, d, s=s: p + s * d, variables, direction))[0] for s in (1e-6, -1e-6)
        )
        np.testing.assert_allclose(slope, (ahead - behind) / 2e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"depths": (2, 2, 5, 2)}, "come in pairs, give even numbers"),
        ({"widths": (8, 16, 20, 32)}, "do not divide by the heads"),
        ({"window": 0}, "model.backbone.window is 0"),
        ({"flavour": "detector"}, "model.backbone.flavour is 'detector'"),
        ({"name": "swin_l"}, "model.backbone.name is 'swin_l'"),
    ],
)
def test_what_cannot_be_built_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        backbones.create(small(**changes))


@pytest.mark.parametrize("shifted", [False, True])
def test_attention_window_by_window_is_that_of_all_windows(shifted):
    numbers = np.random.default_rng(0)
    with jax.enable_x64(True):
        bias = jnp.asarray(numbers.normal(size=(2, 9, 9)))
        tokens = tuple(jnp.asarray(numbers.normal(size=(3, 4, 9, 2, 5))) for _ in range(3))
        together = jnp.asarray(numbers.random((4, 9, 9)) < 0.7) if shifted else None
        found, backward = jax.vjp(lambda *x: swin._window_by_window(*x, together), bias, tokens)
        expected, expected_backward = jax.vjp(lambda *x: swin._all_windows(*x, together), bias, tokens)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        gradient = jnp.asarray(numbers.normal(size=found.shape))
        mine, theirs = backward(gradient), expected_backward(gradient)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-12), mine, theirs)
