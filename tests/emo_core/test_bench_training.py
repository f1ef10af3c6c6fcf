"""The figures of training: counted by hand where a hand can, and all there."""

import pytest
import torch

from emo_core.bench.training import bench_training, measure_full_size
from emo_core.diffusion import noise_schedule
from emo_core.measure.count import count_flops, count_training_bytes
from emo_core.model.config import sd15
from emo_core.training.cost import a_batch, count_memory, count_step, staged
from emo_core.training.recipes import stage_recipe
from emo_core.training.step import StageLoss


def test_bytes_of_a_step_by_hand():
    """x @ w and its mean: the product, the mean, the two gradients on the way back, and the weight's."""

    def prepared():
        given, weight = torch.ones(8, 16), torch.ones(16, 4, requires_grad=True)
        return lambda: (given @ weight).mean().backward()

    most = count_training_bytes(prepared)
    product, gradient = 8 * 4 * 4, 16 * 4 * 4
    assert product + gradient <= most <= 3 * product + gradient + 64


def test_the_full_size_second_stage_fits_on_one_80_gb_gpu():
    recipe = stage_recipe(2, "sd15")
    memory = count_memory(sd15(), recipe)
    assert recipe.micro_batch == 1 and recipe.gradient_checkpointing and recipe.bf16
    assert 8 < memory.peak_gib < 80e9 / 2**30
    assert memory.peak_gib == pytest.approx(memory.weights_gib + memory.state_gib + memory.step_gib)
    without = count_memory(sd15(), recipe.model_copy(update={"gradient_checkpointing": False}))
    assert without.step_gib > 3 * memory.step_gib


@pytest.mark.parametrize("stage", [1, 2])
def test_a_step_costs_between_two_and_three_times_its_way_forth(stage):
    """Two times for what only passes gradients on, three times for what is trained."""
    recipe = stage_recipe(stage, "sd15").model_copy(update={"bf16": False, "gradient_checkpointing": False})
    with torch.device("meta"):
        model, _ = staged(sd15(), recipe)
    losses_of = StageLoss(model, noise_schedule("epsilon"), recipe)
    batch = a_batch(sd15(), recipe, 1, torch.device("meta"))
    with torch.no_grad():
        forth = count_flops(lambda: losses_of(batch))
    assert 1.9 < count_step(sd15(), recipe) / forth < 3.01


def test_all_figures_are_there(data, smallest):
    told = []
    found = bench_training(data, 20, torch.device("cpu"), lambda done, total: told.append((done, total)))
    assert {(one.stage, one.reads) for one in found.stages} == {
        (s, r) for s in (1, 2, 3) for r in ("latents", "pictures")
    }
    assert 0.2 < found.loop_over_bare < 5 and 0 <= found.data_wait_share < 1
    assert all(one.loader_samples_per_s > 0 and one.samples_per_s > 0 for one in found.stages)
    assert told[-1] == (7, 7) and not found.measured


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_full_size_measurement_works_on_a_small_model(config, stage):
    """What an accelerator is asked for, on a CPU, which knows no peak of its own."""
    recipe = stage_recipe(stage, "sd15").model_copy(update={"micro_batch": 2, "bf16": False})
    found = measure_full_size(config, recipe, torch.device("cpu"))
    assert found.samples_per_s > 0 and 0 < found.model_flop_utilisation < 1 and found.peak_gib > 0
