"""One optimiser step: the loss of a batch, gathered over micro-batches."""

from diffusers import DDIMScheduler
from torch import Tensor

from emo_core.diffusion import diffusion_loss, diffusion_target, timesteps_at
from emo_core.model.emo import EMO, masked, stack_motion
from emo_core.training.batch import Batch


def batch_loss(model: EMO, scheduler: DDIMScheduler, batch: Batch, min_snr: float | None) -> Tensor:
    """The diffusion loss of a batch (EMO 3.1)."""
    reference = model.backbone.project_reference(
        masked(model.reference_net(batch.reference).attention, batch.keep_reference)
    )
    motion = {}
    if batch.motion.shape[1]:
        maps = model.reference_net(batch.motion.flatten(0, 1)).maps  # frozen from stage 2 on, so without a graph
        motion = masked(stack_motion(maps, len(batch.motion)), batch.keep_motion)
    conditions = model.conditions(
        reference=reference, motion=motion, audio=batch.audio, speed=batch.speed, mask=batch.mask
    )
    timestep = timesteps_at(scheduler, batch.strata)
    noisy = scheduler.add_noise(batch.latents, batch.noise, timestep)
    prediction = model.backbone(noisy, timestep, conditions)
    target = diffusion_target(scheduler, batch.latents, batch.noise, timestep)
    return diffusion_loss(scheduler, prediction, target, timestep, min_snr, batch.weight)


def accumulate(model: EMO, scheduler: DDIMScheduler, batch: Batch, micro_batch: int, min_snr: float | None) -> float:
    """Add the gradients of the whole batch, micro-batch by micro-batch; return its loss."""
    size = len(batch.latents)
    total = 0.0
    for start in range(0, size, micro_batch):
        part = batch.part(start, start + micro_batch)
        loss = batch_loss(model, scheduler, part, min_snr) * (len(part.latents) / size)
        loss.backward()
        total += float(loss.detach())
    return total
