"""The masked decoder against a float64 evaluation of its equations."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax.layers.mask_decoder import MaskedDecoder, attention_mask
from avs_jax.layers.position import map_position
from avs_jax.layers.resize import interpolation_matrix

FRAMES, QUERIES, WIDTH, HEADS, CLASSES = 2, 5, 16, 2, 3
SHAPES = ((2, 3), (4, 6))


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    maps = tuple(rng.normal(size=(FRAMES, *shape, WIDTH)).astype(np.float32) for shape in SHAPES)
    mask_features = rng.normal(size=(FRAMES, 8, 12, WIDTH)).astype(np.float32)
    return maps, mask_features, rng.normal(size=(FRAMES, QUERIES, WIDTH)).astype(np.float32)


def decoder(num_layers=4, **options):
    return MaskedDecoder(QUERIES, CLASSES, num_layers, HEADS, ffn_dim=24, **options)


@functools.cache
def random_params():
    """Parameters under which masks are neither full nor empty."""
    maps = tuple(np.zeros((1, *shape, WIDTH), np.float32) for shape in SHAPES)
    shapes = jax.eval_shape(decoder().init, jax.random.key(0), maps, np.zeros((1, 8, 12, WIDTH), np.float32))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32) / 2, shapes["params"])


def layer_norm(x, p):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def linear(x, p):
    return x @ p["kernel"] + p["bias"]


def attention(p, query, key, value, mask):
    q, k, v = linear(query, p["query"]), linear(key, p["key"]), linear(value, p["value"])
    heads = []
    for part in np.split(np.arange(WIDTH), HEADS):
        logits = q[..., part] @ k[..., part].swapaxes(1, 2) / np.sqrt(WIDTH // HEADS)
        weights = np.exp(np.where(mask, logits, -np.inf))
        heads.append(weights / weights.sum(-1, keepdims=True) @ v[..., part])
    return linear(np.concatenate(heads, -1), p["out"])


def predict(p, queries, mask_features):
    x = layer_norm(queries, p["norm"])
    logits = linear(x, p["class_embed"])
    for i in range(3):
        x = linear(np.maximum(x, 0) if i else x, p[f"mask_embed_{i}"])
    return logits, np.einsum("nqd,nhwd->nqhw", x, mask_features)


def where_open(masks, shape):
    rows, columns = (interpolation_matrix(size, target) for size, target in zip(masks.shape[2:], shape, strict=True))
    inside = (np.einsum("nqhw,yh,xw->nqyx", masks, rows, columns) >= 0).reshape(*masks.shape[:2], -1)
    return np.where(inside.any(-1, keepdims=True), inside, True)


def expected(p, maps, mask_features, start, unmasked):
    p, position = jax.tree.map(np.float64, p), np.float64(p["query_positions"])
    queries = start + p["query_features"]
    found = [predict(p["head"], queries, mask_features)]
    for i in range(4):
        layer, level = p[f"layer_{i}"], i % 2
        value = np.float64(maps[level]).reshape(FRAMES, -1, WIDTH) + p["level_embed"][level]
        key = value + np.float64(map_position(SHAPES[level], WIDTH))
        mask = where_open(found[-1][1], SHAPES[level]) if level not in unmasked else True
        update = attention(layer["cross_attn"], queries + position, key, value, mask)
        queries = layer_norm(queries + update, layer["cross_norm"])
        placed = queries + position
        update = attention(layer["self_attn"], placed, placed, queries, True)
        queries = layer_norm(queries + update, layer["self_norm"])
        update = linear(np.maximum(linear(queries, layer["ffn"]["linear1"]), 0), layer["ffn"]["linear2"])
        queries = layer_norm(queries + update, layer["ffn_norm"])
        found.append(predict(p["head"], queries, mask_features))
    return [np.stack(part) for part in zip(*found, strict=True)]


@pytest.mark.parametrize("unmasked", ((), (0,)))
def test_decoder_equals_its_equations(inputs, unmasked):
    maps, mask_features, start = inputs
    found = jax.jit(lambda p: decoder().apply({"params": p}, maps, mask_features, start, unmasked))(random_params())
    class_logits, mask_logits = expected(random_params(), maps, mask_features, start, unmasked)
    open_cells = where_open(mask_logits[2], SHAPES[1])
    assert 0.1 < open_cells.mean() < 0.9  # masks matter here
    np.testing.assert_allclose(found.class_logits, class_logits, atol=1e-4 * np.abs(class_logits).max())
    np.testing.assert_allclose(found.mask_logits, mask_logits, atol=1e-4 * np.abs(mask_logits).max())


def test_rematerialisation_changes_no_gradient(inputs):
    maps, mask_features, start = inputs

    params = {name: tree for name, tree in random_params().items() if name not in ("layer_1", "layer_2", "layer_3")}

    def gradients(remat):
        def loss(p):
            found = decoder(num_layers=1, remat=remat).apply({"params": p}, maps, mask_features, start)
            return jnp.mean(found.mask_logits**2) + jnp.mean(found.class_logits**2)

        return jax.jit(jax.grad(loss))(params)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), gradients("none"), gradients("blocks"))


def test_what_layers_of_bfloat16_add_to_is_float32(inputs):
    module = decoder(dtype=jnp.bfloat16)
    apply = functools.partial(module.apply, mutable=["intermediates"])
    predictions, sown = jax.eval_shape(apply, {"params": random_params()}, *inputs)
    assert {x.dtype for x in predictions} == {sown["intermediates"][f"decoder_{i}"][0].dtype for i in range(4)}
    assert predictions.mask_logits.dtype == jnp.float32


def test_without_learnt_queries_there_are_no_such_parameters(inputs):
    maps, mask_features, start = inputs
    module = decoder(query_features=False, query_positions=False)
    params = jax.eval_shape(module.init, jax.random.key(0), maps, mask_features, start)["params"]
    assert not {"query_features", "query_positions"} & set(params)


def test_attention_mask_opens_rows_without_a_cell():
    masks = np.full((1, 2, 4, 4), -1.0, np.float32)
    masks[0, 1, :, :2] = 1
    found = np.asarray(attention_mask(masks, (2, 2)))
    np.testing.assert_array_equal(found[0, 0], [[True] * 4, [True, False, True, False]])


def test_a_mask_logit_of_zero_is_inside():
    assert attention_mask(np.zeros((1, 1, 2, 2), np.float32) - 1e-12, (2, 2)).all()


def test_masks_have_no_gradient():
    gradient = jax.grad(lambda x: jnp.sum(jnp.where(attention_mask(x, (2, 2)), x.sum(), 0.0)))(
        np.ones((1, 1, 4, 4), np.float32)
    )
    np.testing.assert_allclose(gradient, 4)
