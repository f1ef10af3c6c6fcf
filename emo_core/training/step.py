"""One optimiser step: the loss of a batch, gathered over micro-batches."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from emo_core.diffusion import diffusion_loss, diffusion_target, timesteps_at
from emo_core.model.backbone import Conditions
from emo_core.model.emo import EMO, masked, stack_motion
from emo_core.training.batch import Batch
from emo_core.training.recipes import Recipe


def batch_loss(model: EMO, scheduler: DDIMScheduler, batch: Batch, min_snr: float | None) -> Tensor:
    """The diffusion loss of a batch (EMO 3.1)."""
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
    return diffusion_loss(scheduler, prediction, target, timestep, min_snr, batch.weight)


def accumulate(
    model: EMO,
    trained: Sequence[nn.Parameter],
    scheduler: DDIMScheduler,
    batch: Batch,
    recipe: Recipe,
    side_by_side: int = 1,
) -> float:
    """Put the gradients of the whole batch into `trained`, micro-batch by micro-batch; return its loss.

    side_by_side: how many micro-batches are computed at a time, each on a thread of its own. On a CPU this uses the
    cores better than threads inside each small operation do. The gradients are summed in the order of the
    micro-batches, so the result does not depend on it.
    """
    size = len(batch.latents)
    starts = range(0, size, recipe.micro_batch)

    def share_of(start: int) -> tuple[float, Sequence[Tensor | None]]:
        part = batch.part(start, start + recipe.micro_batch)
        with torch.autocast(part.latents.device.type, torch.bfloat16, enabled=recipe.bf16):  # it is each thread's own
            loss = batch_loss(model, scheduler, part, recipe.min_snr) * (len(part.latents) / size)
        return float(loss.detach()), torch.autograd.grad(loss, trained, allow_unused=True)

    def gather(shares: Iterable[tuple[float, Sequence[Tensor | None]]]) -> float:
        total = 0.0
        for loss, gradients in shares:
            total += loss
            for parameter, gradient in zip(trained, gradients, strict=True):
                if gradient is None:
                    continue
                if parameter.grad is not None:
                    parameter.grad.add_(gradient)
                elif gradient.stride() == parameter.stride():
                    parameter.grad = gradient
                else:  # laid out as its parameter: a fused optimiser takes the two to be alike, and does not look
                    parameter.grad = torch.empty_like(parameter).copy_(gradient)
        return total

    if side_by_side == 1:
        return gather(map(share_of, starts))
    with ThreadPoolExecutor(side_by_side) as pool:
        return gather(pool.map(share_of, starts))
