"""What the programs compute, at the smallest sizes."""

import jax
import numpy as np
import pytest

from avs_jax.benchmark import cost, programs
from avs_jax.benchmark.sizes import Sizes
from tests.integration import tiny_vct


def flops(config, component, mode):
    program = programs.create(config, component, mode)
    return cost.of(program.function, *program.arguments).flops


def test_the_parts_make_up_the_model(tiny_config):
    parts = ("backbone", "vggish", "query_generator", "encoder", "decoder", "head")
    whole = flops(tiny_config, "model", "forward")
    assert 0.9 * whole < sum(flops(tiny_config, part, "forward") for part in parts) < whole


def test_the_parts_of_vct_are_parts_of_it():
    config = tiny_vct.get_config()
    whole = flops(config, "model", "forward")
    parts = {part: flops(config, part, "forward") for part in ("backbone", "pixel_decoder", "mask_decoder")}
    assert all(count > 0.02 * whole for count in parts.values()), parts
    assert sum(parts.values()) < whole
    assert not programs.has(config, "encoder", "forward")


def test_training_a_part_is_about_three_forward_passes(tiny_config):
    tiny_config.train.update(batch_size=tiny_config.eval.batch_size, supervised_frames_only=False)
    tiny_config.model.remat = "none"  # what is computed again is no small part of a tiny model
    for part in ("encoder", "decoder", "head"):
        assert flops(tiny_config, part, "train") == pytest.approx(3 * flops(tiny_config, part, "forward"), rel=0.15)


@pytest.mark.parametrize("component", ["sampling", "decoder"])
def test_gradients_reach_parameters_and_inputs(tiny_config, component):
    program = programs.create(tiny_config, component, "train")
    gradients = jax.jit(program.function)(*program.arguments)
    assert jax.tree.structure(gradients) == jax.tree.structure((program.arguments[0]["params"], program.arguments[1]))
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(gradients[1]))


def test_sizes_are_those_of_the_configuration(tiny_config):
    tiny_config.eval.batch_size = 3
    evaluation, training = (Sizes.of(tiny_config, training) for training in (False, True))
    assert (evaluation.num_frames, training.num_frames) == (15, 4)  # the demo trains on one frame of each clip
    assert Sizes.of(tiny_config, True, supervised_only=False).num_frames == 20
    assert (evaluation.quarter, evaluation.levels, evaluation.tokens) == ((16, 16), ((8, 8), (4, 4), (2, 2)), 84)


def test_what_cannot_be_timed_is_refused(tiny_config):
    tiny_config.model.vggish.frozen = True
    assert not programs.has(tiny_config, "vggish", "train")
    with pytest.raises(ValueError, match="no program 'predict' for 'encoder'"):
        programs.create(tiny_config, "encoder", "predict")
