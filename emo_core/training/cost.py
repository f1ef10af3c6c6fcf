"""What a stage costs on one device, counted on tensors without memory: bytes and operations."""

from collections.abc import Callable

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from emo_core.diffusion import noise_schedule
from emo_core.measure.count import count_flops, count_training_bytes, weight_bytes
from emo_core.model.config import ModelConfig
from emo_core.model.emo import EMO, build
from emo_core.training.batch import Batch
from emo_core.training.recipes import Recipe
from emo_core.training.stages import freeze_all_but
from emo_core.training.step import StageLoss
from emo_data.dataset.sample import Origin

GIB = 2**30


class Memory(BaseModel):
    """GiB of a stage on one device; what the device's libraries keep for themselves comes on top."""

    model_config = ConfigDict(extra="forbid")

    micro_batch: int
    weights_gib: float = Field(description="trained or not")
    state_gib: float = Field(description="what AdamW and the running mean keep")
    step_gib: float = Field(description="most of what a step holds besides: activations and gradients")
    peak_gib: float


def a_batch(config: ModelConfig, recipe: Recipe, size: int, device: torch.device) -> Batch:
    """A batch of random numbers; what it shows does not change what it costs."""
    frames, before = recipe.window(config)
    shape, around = config.latent_shape, 2 * config.audio_margin + 1

    def numbers(*of: int) -> Tensor:
        return torch.rand(size, *of, device=device)

    return Batch(
        origins=(Origin(0, 0, 0),) * size,
        latents=numbers(frames, *shape),
        reference=numbers(*shape),
        motion=numbers(before, *shape),
        mask=numbers(1, config.size, config.size),
        audio=numbers(frames, around, config.audio_layers, config.audio_width) if recipe.stage > 1 else None,
        speed=numbers(frames, around) if recipe.stage > 2 else None,
        keep_reference=numbers(),
        keep_motion=numbers(),
        noise=numbers(frames, *shape),
        weight=numbers(frames, 1, *shape[1:]),
        strata=numbers(),
    )


def staged(config: ModelConfig, recipe: Recipe) -> tuple[EMO, dict[str, nn.Parameter]]:
    """A stage's new model, and what of it is trained, by name."""
    buckets = [float(number) for number in range(config.speed_buckets)]
    model = build(config, recipe.stage, (buckets, buckets)).train()
    for unet in (model.backbone, model.reference_net):
        unet.gradient_checkpointing = recipe.gradient_checkpointing
    return model, freeze_all_but(model, recipe)


def count_memory(config: ModelConfig, recipe: Recipe) -> Memory:
    """Of one micro-batch."""

    def prepared() -> Callable[[], object]:
        without_memory, _ = staged(config, recipe)
        losses_of = StageLoss(without_memory, noise_schedule(config.prediction), recipe)
        batch = a_batch(config, recipe, recipe.micro_batch, torch.device("cpu"))
        return lambda: losses_of(batch).sum().backward()

    step = count_training_bytes(prepared)
    with torch.device("meta"):
        model, trained = staged(config, recipe)
    weights, of_it = weight_bytes(model), sum(parameter.nbytes for parameter in trained.values())
    state = of_it * (2 + (recipe.ema_decay is not None))
    return Memory(
        micro_batch=recipe.micro_batch,
        weights_gib=weights / GIB,
        state_gib=state / GIB,
        step_gib=step / GIB,
        peak_gib=(weights + state + step) / GIB,
    )


def count_step(config: ModelConfig, recipe: Recipe) -> int:
    """Operations of one sample, forth and back; what gradient checkpointing computes again does not count."""
    recipe = recipe.model_copy(update={"bf16": False, "gradient_checkpointing": False})
    with torch.device("meta"):
        model, _ = staged(config, recipe)
    losses_of = StageLoss(model, noise_schedule(config.prediction), recipe)
    batch = a_batch(config, recipe, 1, torch.device("meta"))
    return count_flops(lambda: torch.autograd.backward(losses_of(batch).sum()))
