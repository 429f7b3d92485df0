"""Grouping against the published assignment attention with the same noise, and the properties of Gumbel-softmax."""

from __future__ import annotations

import functools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rule
import scipy.stats

from avs_jax.convert import rules
from avs_jax.convert.tables.vct import grouping_attention
from avs_jax.layers.grouping import GroupingAttention, normalize_groups, soft_assignment, straight_through

PREFIX = "sem_seg_head.predictor.visual_query_block.assign_attn"


@pytest.fixture(scope="module")
def case():
    return golden.load("vct/group_attention")


@pytest.fixture(scope="module")
def table():
    return grouping_attention(256, PREFIX, "grouping")


def gumbel_noise(case):
    how = case.manifest["inputs"]["gumbel"]
    uniform = rule.generator(how["name"]).random(how["shape"])
    return (-np.log(-np.log(uniform))).astype(np.float32)[:, 0]


@functools.partial(jax.jit, static_argnames="train")
def group(params, queries, pixels, noise=None, train=False):
    module = GroupingAttention()
    output, sown = module.apply({"params": params}, queries, pixels, train, noise, mutable=["intermediates"])
    return output, sown["intermediates"]["assignment"][0]


def test_published_groups_with_given_noise(case, table):
    params = rules.from_torch(case.state_dict, table)["params"]["grouping"]
    output, assignment = group(params, case.inputs["query"], case.inputs["key"], gumbel_noise(case), train=True)
    assert case.check("train/index", np.argmax(assignment, axis=1)).max_abs == 0
    assert case.check("train/count", np.sum(assignment, axis=2)).max_abs == 0
    assert case.check("train/output", output).rel_l2 < 1e-5


def test_published_groups_without_noise(case, table):
    params = rules.from_torch(case.state_dict, table)["params"]["grouping"]
    output, assignment = group(params, case.inputs["query"], case.inputs["key"])
    assert case.check("eval/index", np.argmax(assignment, axis=1)).max_abs == 0
    assert case.check("eval/output", output).rel_l2 < 1e-5


def test_published_gradients_through_the_choice(case, table):
    params = rules.from_torch(case.state_dict, table)["params"]["grouping"]
    inputs, noise = case.inputs, gumbel_noise(case)

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1, 2))
    def gradients(params, queries, pixels):
        output = GroupingAttention().apply({"params": params}, queries, pixels, True, noise)
        return jnp.sum(output * inputs["cotangent"])

    of_params, of_queries, of_pixels = gradients(params, inputs["query"], inputs["key"])
    found = {"query": of_queries, "key": of_pixels}
    found |= {
        name.replace(f"{PREFIX}.", "/"): array
        for name, array in rules.to_torch({"params": {"grouping": of_params}}, table).items()
    }
    assert len(found) == 10
    for name, array in found.items():
        name = f"train/grad{name}" if name.startswith("/") else f"train/grad_{name}"
        difference = case.check(name, array)
        # The bias of the queries moves all logits of a pixel alike: its gradient is 0, rounding aside.
        assert difference.max_abs < 1e-5 if name.endswith("q_proj.bias") else difference.rel_l2 < 1e-5, name


@pytest.fixture(scope="module")
def logits():
    return np.random.default_rng(0).normal(0, 2, (3, 7, 40)).astype(np.float32)


def test_every_pixel_goes_to_one_query(logits):
    noise = jax.random.gumbel(jax.random.key(0), logits.shape)
    for given in (None, noise):
        assignment = np.asarray(straight_through(soft_assignment(logits, given)))
        assert set(np.unique(assignment)) == {0.0, 1.0}
        np.testing.assert_array_equal(assignment.sum(1), 1)


def test_of_equal_queries_the_first_is_chosen():
    assert np.argmax(straight_through(soft_assignment(jnp.zeros((4, 1)))), 0) == 0


def test_choices_are_as_frequent_as_the_softmax_says(logits):
    draws, pixel_logits = 20_000, logits[0, :, :4]

    def draw(key):
        return straight_through(soft_assignment(pixel_logits, jax.random.gumbel(key, pixel_logits.shape), 0.7))

    chosen = jax.jit(lambda keys: jax.vmap(draw)(keys).sum(0))(jax.random.split(jax.random.key(1), draws))
    exponential = np.exp(np.float64(pixel_logits))
    expected = draws * exponential / exponential.sum(0)  # whatever the temperature: it does not move the argmax
    for pixel in range(4):
        frequent = expected[:, pixel] > 5
        observed = np.append(chosen[frequent, pixel], chosen[~frequent, pixel].sum())
        wanted = np.append(expected[frequent, pixel], expected[~frequent, pixel].sum())
        kept = wanted > 1e-9
        assert scipy.stats.chisquare(observed[kept], wanted[kept]).pvalue > 1e-3


def test_the_gradient_is_that_of_the_relaxed_choice(logits):
    noise = np.asarray(jax.random.gumbel(jax.random.key(2), logits.shape))
    weights = np.random.default_rng(3).normal(size=logits.shape).astype(np.float32)
    gradient = jax.grad(lambda x: jnp.sum(straight_through(soft_assignment(x, noise, 0.5)) * weights))(logits)

    scaled = (np.float64(logits) + noise) / 0.5
    soft = np.exp(scaled - scaled.max(1, keepdims=True))
    soft /= soft.sum(1, keepdims=True)
    expected = soft * (weights - (soft * weights).sum(1, keepdims=True)) / 0.5
    np.testing.assert_allclose(gradient, expected, atol=1e-5)


def test_a_low_temperature_makes_the_relaxed_choice_hard(logits):
    noise = jax.random.gumbel(jax.random.key(4), logits.shape)
    cold = soft_assignment(logits, noise, 1e-4)
    chosen = np.asarray(logits + noise).argmax(1)
    np.testing.assert_allclose(cold, np.moveaxis(np.eye(7)[chosen], -1, 1), atol=1e-3)


def test_groups_without_pixels_gather_nothing():
    assignment = jnp.zeros((2, 5)).at[0].set(1)
    weights = normalize_groups(assignment)
    np.testing.assert_allclose(weights, [[1 / 6] * 5, [0] * 5], rtol=1e-6)
    gradient = jax.grad(lambda a: jnp.sum(normalize_groups(a) ** 2))(assignment)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("kind", ("gumbel", "softmax"))
def test_bfloat16_stays_finite(kind):
    rng = np.random.default_rng(5)
    queries, pixels = 100 * rng.normal(size=(1, 6, 16)), 100 * rng.normal(size=(1, 30, 16))
    module = GroupingAttention(kind, dtype=jnp.bfloat16)
    params = module.init(jax.random.key(0), queries, pixels)

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        gathered = module.apply(params, queries, pixels, True, rngs={"dropout": jax.random.key(6)})
        return jnp.sum(gathered.astype(jnp.float32) ** 2)

    value, gradients = loss(params)
    assert np.isfinite(value) and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="no grouping is named 'hard'"):
        GroupingAttention("hard").init(jax.random.key(0), np.zeros((1, 2, 4)), np.zeros((1, 3, 4)))
