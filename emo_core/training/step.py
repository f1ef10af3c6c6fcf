"""One optimiser step: the loss of a batch, gathered over micro-batches."""

from collections.abc import Sequence

import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from emo_core.diffusion import diffusion_losses, diffusion_target, timesteps_at
from emo_core.lanes import lanes
from emo_core.model.backbone import Conditions
from emo_core.model.emo import EMO, masked, stack_motion
from emo_core.training.batch import Batch
from emo_core.training.ranks import without_averaging
from emo_core.training.recipes import Recipe


class StageLoss(nn.Module):
    """The diffusion loss of every sample of a batch (EMO 3.1)."""

    def __init__(self, model: EMO, scheduler: DDIMScheduler, recipe: Recipe) -> None:
        super().__init__()
        self.model, self.scheduler, self.recipe = model, scheduler, recipe

    def forward(self, batch: Batch) -> Tensor:
        """(B,) losses; their mean is the batch's."""
        if not self.recipe.bf16:
            return self._losses(batch)
        with torch.autocast(batch.latents.device.type, torch.bfloat16):  # it is each thread's own
            return self._losses(batch)

    def _losses(self, batch: Batch) -> Tensor:
        model, scheduler = self.model, self.scheduler
        reference = model.backbone.project_reference(
            masked(model.reference_net(batch.reference).attention, batch.keep_reference)
        )
        motion = {}
        if batch.motion.shape[1]:
            maps = model.reference_net(batch.motion.flatten(0, 1)).maps
            motion = masked(stack_motion(maps, len(batch.motion)), batch.keep_motion)
        conditions = Conditions(
            reference, model.hear(batch.audio), motion, model.pace(batch.speed), model.face_locator(batch.mask)
        )
        timestep = timesteps_at(scheduler, batch.strata)
        noisy = scheduler.add_noise(batch.latents, batch.noise, timestep)
        prediction = model.backbone(noisy, timestep, conditions)
        target = diffusion_target(scheduler, batch.latents, batch.noise, timestep)
        return diffusion_losses(scheduler, prediction, target, timestep, self.recipe.min_snr, batch.weight)


def accumulate(
    losses_of: nn.Module,
    trained: Sequence[nn.Parameter],
    batch: Batch,
    micro_batch: int,
    *,
    share: float = 1.0,
    side_by_side: int = 1,
) -> Tensor:
    """Put the gradients of a batch's mean loss into `trained`, micro-batch by micro-batch; return its losses (B,).

    losses_of: a `StageLoss`, or one that `Ranks.together` made. share: what this batch weighs in a mean over several
    processes, 1 where all have as many samples. side_by_side: how many micro-batches are computed at a time, each on a
    thread of its own. On a CPU this uses the cores better than threads inside each small operation do. The gradients
    are summed in the order of the micro-batches, so the result does not depend on it.
    """
    size = len(batch.latents)
    starts = range(0, size, micro_batch)
    if side_by_side > 1:
        return _in_threads(losses_of, trained, batch, micro_batch, side_by_side)
    found = []
    for start in starts:
        part = batch.part(start, start + micro_batch)
        if start == starts[-1]:
            losses = losses_of(part)
            (losses.sum() * (share / size)).backward()
        else:
            with without_averaging(losses_of):
                losses = losses_of(part)
                (losses.sum() * (share / size)).backward()
        found.append(losses.detach())
    return torch.cat(found)


def _in_threads(
    losses_of: nn.Module, trained: Sequence[nn.Parameter], batch: Batch, micro_batch: int, threads: int
) -> Tensor:
    size = len(batch.latents)

    def part_of(start: int) -> tuple[Tensor, Sequence[Tensor]]:
        losses = losses_of(batch.part(start, start + micro_batch))
        return losses.detach(), torch.autograd.grad(losses.sum() / size, trained)

    found = []
    with lanes(threads) as each:
        for losses, gradients in each(part_of, range(0, size, micro_batch)):
            found.append(losses)
            for parameter, gradient in zip(trained, gradients, strict=True):
                if parameter.grad is not None:
                    parameter.grad.add_(gradient)
                elif gradient.stride() == parameter.stride():
                    parameter.grad = gradient
                else:  # laid out as its parameter: a fused optimiser takes the two to be alike, and does not look
                    parameter.grad = torch.empty_like(parameter).copy_(gradient)
    return torch.cat(found)
