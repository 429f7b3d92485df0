"""The set criterion against the published one, with its random points; matching against scipy."""

from __future__ import annotations

import functools
import types

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rule

from avs_jax.losses import points, vct
from avs_jax.losses.matching import match, matching_costs
from avs_jax.losses.set_criterion import Targets, set_losses
from avs_jax.models.vct import scaled_cosine

CONFIG = types.SimpleNamespace(
    class_weight=2.0, mask_weight=5.0, dice_weight=5.0, no_object_weight=0.1, num_points=12544, oversample=3.0,
    importance=0.75,
)  # fmt: skip
LOSS, GRADIENT = 1e-5, 2e-3  # relative


@pytest.fixture(scope="module", params=("criterion_ms3", "criterion_avss"))
def case(request):
    return golden.load(f"vct/{request.param}")


def outputs_in_order(case):
    """The names of the predictions as our layers are numbered: the final one last."""
    aux = [f"aux{i}" for i in range(case.manifest["config"]["aux_outputs"])]
    return [*aux, "final"]


def targets_of(case):
    frames, inputs = len(case.values["selected_frames"]), case.inputs
    labels = [inputs[f"target{i}/labels"] for i in range(frames)]
    masks = [inputs[f"target{i}/masks"] for i in range(frames)]
    most = max(map(len, labels))
    return Targets(
        np.stack([np.pad(x, (0, most - len(x))) for x in labels]).astype(np.int32),
        np.stack([np.pad(x, ((0, most - len(x)), (0, 0), (0, 0))) for x in masks]),
        np.stack([np.arange(most) < len(x) for x in labels]),
        np.ones(frames, np.float32),
    )


def draws_of(case, targets):
    """The published draws by layer, the pairs' points at their target."""
    calls = iter(enumerate(case.manifest["rand_calls"]))

    def next_draw():
        i, shape = next(calls)
        return rule.generator(f"rand/{i}").random(shape).astype(np.float32)

    layers = {}
    for name in ("final", *outputs_in_order(case)[:-1]):
        matching = np.concatenate([next_draw() for _ in targets.labels])
        of_pairs = []
        for drawn in (next_draw(), next_draw()):
            spread, pair = np.zeros((*targets.labels.shape, *drawn.shape[1:]), np.float32), 0
            for frame in range(len(targets.labels)):
                for target in case.stored(f"index/{name}/{frame}")[1]:
                    spread[frame, target] = drawn[pair]
                    pair += 1
            of_pairs.append(spread)
        layers[name] = points.Draws(matching, *of_pairs)
    assert next(calls, None) is None
    return jax.tree.map(lambda *x: np.stack(x), *(layers[name] for name in outputs_in_order(case)))


def predictions_of(case):
    stacked = [
        np.stack([case.inputs[f"{name}/{part}"] for name in outputs_in_order(case)])
        for part in ("pred_logits", "pred_masks")
    ]
    return tuple(stacked)


@functools.partial(jax.jit, static_argnames=("selected",))
def total_and_terms(class_logits, mask_logits, targets, draws, selected):
    """The weighted total and the terms of each layer; only the frames `selected` are annotated."""
    frames = jnp.array(selected)
    terms = set_losses(
        class_logits[:, frames], mask_logits[:, frames], targets, CONFIG, lambda i: jax.tree.map(lambda x: x[i], draws)
    )
    return sum(getattr(CONFIG, vct.WEIGHTS[name]) * values.sum() for name, values in terms.items()), terms


def test_published_matches_losses_and_gradients(case):
    targets, (class_logits, mask_logits) = targets_of(case), predictions_of(case)
    selected, draws = tuple(case.values["selected_frames"]), draws_of(case, targets)
    gradient_fn = jax.value_and_grad(total_and_terms, argnums=(0, 1), has_aux=True)
    (total, terms), (of_classes, of_masks) = gradient_fn(class_logits, mask_logits, targets, draws, selected)

    names = outputs_in_order(case)
    published = case.values["losses"]
    for i, name in enumerate(names):
        for term, values in terms.items():
            key = f"loss_{term}" if name == "final" else f"loss_{term}_{i}"
            np.testing.assert_allclose(values[i], published[key], rtol=LOSS, err_msg=key)
    total += published.get("loss_proto", 0.0)
    np.testing.assert_allclose(total, case.values["total_weighted"], rtol=LOSS)

    for name in case.outputs:
        part, _, rest = name.partition("/")
        output, _, which = rest.partition("/")
        if part != "grad" or output not in names:
            continue
        gradient = np.asarray((of_classes if which == "pred_logits" else of_masks)[names.index(output)])
        gradient = (
            gradient[np.array(selected)] if len(gradient) != case.manifest["outputs"][name]["shape"][0] else gradient
        )
        if which == "pred_masks":
            gradient = gradient.sum((-2, -1))
        elif which == "pred_masks_abs":
            gradient = np.abs(gradient).sum((-2, -1))
        assert case.check(name, gradient).rel_l2 < GRADIENT, name


def test_published_matching(case):
    """Costs and the choice of a query for each target, of every layer."""
    targets, (class_logits, mask_logits) = targets_of(case), predictions_of(case)
    selected, draws = np.array(case.values["selected_frames"]), draws_of(case, targets)
    wanted_maps = np.moveaxis(targets.masks, 1, -1)

    @jax.jit
    def costs(class_logits, mask_logits, at):
        predicted = points.sample(jnp.moveaxis(mask_logits, 1, -1), at)
        wanted = points.sample(wanted_maps, at)
        return jax.vmap(lambda *a: matching_costs(*a, CONFIG))(class_logits, predicted, targets.labels, wanted)

    for layer, name in enumerate(outputs_in_order(case)):
        found = costs(class_logits[layer, selected], mask_logits[layer, selected], draws.matching[layer])
        matched = np.asarray(match(found, targets.valid))
        for frame, valid in enumerate(targets.valid):
            queries, numbers = case.stored(f"index/{name}/{frame}")
            np.testing.assert_array_equal(matched[frame, numbers], queries)
            if name == "final":
                assert case.check(f"cost/{frame}", found[frame][:, valid]).rel_l2 < 1e-5


def test_published_prototype_loss():
    case = golden.load("vct/criterion_avss")
    targets, selected = targets_of(case), np.array(case.values["selected_frames"])
    present = np.zeros((1, len(selected), 71), bool)
    for frame, (labels, valid) in enumerate(zip(targets.labels, targets.valid, strict=True)):
        present[0, frame, labels[valid]] = True

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1, 2))
    def loss(audio, prototypes, scale):
        similarity = scaled_cosine(audio[selected], prototypes, scale)
        return vct.pac_loss(similarity[None], present, np.ones((1, len(selected))))

    scale = np.float32(case.manifest["logit_scale"])
    value, (of_audio, of_prototypes, of_scale) = loss(
        case.inputs["audio_feat_raw"], case.inputs["proto_feat_raw"], scale
    )
    np.testing.assert_allclose(value, case.values["losses"]["loss_proto"], rtol=LOSS)
    assert case.check("grad/audio_feat_raw", of_audio).rel_l2 < GRADIENT
    assert case.check("grad/proto_feat_raw", of_prototypes).rel_l2 < GRADIENT
    np.testing.assert_allclose(of_scale, case.manifest["logit_scale_grad"], rtol=GRADIENT)
