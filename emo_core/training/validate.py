"""The loss on people whom the run never sees, always on the same frames, noise and timesteps."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from emo_core.model.config import ModelConfig
from emo_core.training.batch import Batch, batches
from emo_core.training.ranks import Ranks
from emo_core.training.recipes import Recipe
from emo_data.dataset.index import ClipIndex
from emo_data.dataset.loader import load
from emo_data.dataset.order import Order
from emo_data.dataset.sample import Wants


def fixed_batch(
    recipe: Recipe,
    config: ModelConfig,
    index: ClipIndex,
    wants: Wants,
    ranks: Ranks,
    encode: Callable[[Tensor], Tensor],
) -> Batch | None:
    """This process's part of the samples that are held out: the first step of a recipe that drops nothing."""
    even = {"drop_all": 0.0, "drop_audio": 0.0, "zero_motion": 0.0, "grow_mask": 0.0, "noise_power": 1.0}
    recipe = recipe.model_copy(update={**even, "batch": recipe.validation, "seed": 0})
    order = Order.over(
        index.lengths, wants.frames, wants.before, lanes=recipe.batch, windows=1, seed=(recipe.seed, recipe.stage)
    )
    lanes, first = ranks.lanes(recipe.batch), range(1)
    if not lanes:
        return None
    wants = replace(wants, seed=order.seed)
    return next(batches(load(index, wants, order, lanes, first, 0), recipe, config, lanes, first, encode))


@torch.no_grad()
def validation_loss(
    losses_of: nn.Module, batch: Batch | None, micro_batch: int, ranks: Ranks, device: torch.device
) -> float:
    """Mean over all processes' samples."""
    total, count = 0.0, 0
    for start in range(0, 0 if batch is None else len(batch.origins), micro_batch):
        assert batch is not None
        losses = losses_of(batch.part(start, start + micro_batch).to(device))
        total, count = total + float(losses.sum()), count + len(losses)
    total, samples = ranks.total(total, count, device=device)
    return total / samples
