"""What training costs: full-size memory and operations counted without a device, the loop timed against a bare one."""

import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from emo_core.diffusion import noise_schedule
from emo_core.measure.clock import device_name
from emo_core.measure.count import count_flops, count_training_bytes, weight_bytes
from emo_core.model.config import ModelConfig, sd15
from emo_core.model.emo import EMO, build
from emo_core.training.batch import Batch
from emo_core.training.loop import Trainer, side_by_side
from emo_core.training.optim import make_optimizer
from emo_core.training.prepare import plan, prepare
from emo_core.training.recipes import Recipe, stage_recipe
from emo_core.training.record import read_metrics
from emo_core.training.stages import freeze_all_but
from emo_core.training.step import StageLoss, accumulate

GIB = 2**30


class Memory(BaseModel):
    """GiB of one full-size stage on one device, everything in float32: with bfloat16 it is less."""

    model_config = ConfigDict(extra="forbid")

    micro_batch: int
    weights_gib: float = Field(description="trained or not")
    state_gib: float = Field(description="what AdamW and the running mean keep")
    step_gib: float = Field(description="most of what a step holds besides: activations and gradients")
    peak_gib: float


def a_batch(config: ModelConfig, recipe: Recipe, size: int, device: torch.device) -> Batch:
    """A batch of random numbers; what it shows does not change what it costs."""
    frames, before = (1, 0) if recipe.stage == 1 else (config.frames, config.motion_frames)
    shape, around = config.latent_shape, 2 * config.audio_margin + 1

    def numbers(*of: int) -> Tensor:
        return torch.rand(size, *of, device=device)

    return Batch(
        names=("",) * size,
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


def staged(config: ModelConfig, recipe: Recipe) -> tuple[EMO, list[nn.Parameter]]:
    """A stage's new model, and what of it is trained."""
    buckets = [float(number) for number in range(config.speed_buckets)]
    model = build(config, recipe.stage, (buckets, buckets)).train()
    for unet in (model.backbone, model.reference_net):
        unet.gradient_checkpointing = recipe.gradient_checkpointing
    return model, list(freeze_all_but(model, recipe).values())


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
    weights, of_it = weight_bytes(model), sum(parameter.nbytes for parameter in trained)
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


class Timed(BaseModel):
    """A stage of the small model, timed on a dataset."""

    model_config = ConfigDict(extra="forbid")

    stage: int
    loop_over_bare: float = Field(description="a step of the loop, loader and all, over one on a batch that is there")
    step_seconds: float
    bare_seconds: float
    data_wait_share: float = Field(description="of the loop's time, until its batch was there")
    samples_per_s: float
    loader_samples_per_s: float = Field(description="the loader alone, as fast as it can")
    loader_over_step: float = Field(description="over what the steps take")


class TrainingFigures(BaseModel):
    """All figures of `emo bench train`."""

    model_config = ConfigDict(extra="forbid")

    device: str
    torch: str
    cached_latents: bool
    loop_over_bare: float = Field(description="the worst stage's, like the next two")
    data_wait_share: float
    loader_over_step: float
    samples_per_s: float = Field(description="of stage 2")
    stages: list[Timed]
    memory: dict[str, Memory] = Field(description="of the full-size model, by stage, one device, counted")
    sample_tflop: dict[str, float] = Field(description="of the full-size model, by stage, forth and back")


def bench_training(
    data: str, steps: int, cache: bool, device: torch.device, on_progress: Callable[[int, int], None]
) -> TrainingFigures:
    """Every stage of the small model on a dataset; the full-size one counted. steps: that are timed, of each stage."""
    stages: list[Timed] = []
    with tempfile.TemporaryDirectory() as folder:
        init = None
        for stage in (1, 2, 3):
            trainer = _trainer(stage, steps, data, Path(folder), init, cache, device)
            stages.append(_time_stage(trainer))
            init = trainer.run.model
            on_progress(stage, 4)
    recipes = {f"stage {stage}": stage_recipe(stage, "sd15") for stage in (1, 2, 3)}
    figures = TrainingFigures(
        device=device_name(device),
        torch=torch.__version__,
        cached_latents=cache,
        loop_over_bare=max(one.loop_over_bare for one in stages),
        data_wait_share=max(one.data_wait_share for one in stages),
        loader_over_step=min(one.loader_over_step for one in stages),
        samples_per_s=stages[1].samples_per_s,
        stages=stages,
        memory={name: count_memory(sd15(), recipe) for name, recipe in recipes.items()},
        sample_tflop={name: count_step(sd15(), recipe) / 1e12 for name, recipe in recipes.items()},
    )
    on_progress(4, 4)
    return figures


WARM_UP, TURN = 10, 5
"""Steps before the first that is timed, and steps of the loop before as many bare ones."""


def _trainer(
    stage: int, steps: int, data: str, folder: Path, init: str | None, cache: bool, device: torch.device
) -> Trainer:
    recipe = stage_recipe(stage, "tiny").model_copy(
        update={"steps": WARM_UP + steps + 1, "checkpoint_every": 10**9, "preview_every": 10**9}
    )
    latents = str(folder / "latents") if cache else None
    return prepare(plan(recipe, data, folder / f"stage{stage}", init, cache=latents), device)


def _time_stage(trainer: Trainer) -> Timed:
    """The loop and the bare loop take turns, so that a machine that slows down slows both down."""
    recipe, bare = trainer.recipe, _Bare(trainer)
    loop: list[float] = []
    waits: list[float] = []
    began = time.perf_counter()

    def on_step(done: int, total: int, _: str) -> None:
        nonlocal began
        if WARM_UP < done < total:  # the last step writes a preview, too
            loop.append(time.perf_counter() - began)
        if done % TURN == 0:
            bare.turn(done > WARM_UP)
        began = time.perf_counter()

    trainer.train(on_step)
    waits = [line["data_wait_share"] for line in read_metrics(trainer.run)][WARM_UP:-1]
    step, bare_step = statistics.median(loop), statistics.median(bare.seconds)
    rate = _loader_rate(trainer)
    return Timed(
        stage=recipe.stage,
        loop_over_bare=step / bare_step,
        step_seconds=step,
        bare_seconds=bare_step,
        data_wait_share=statistics.fmean(waits),
        samples_per_s=recipe.batch / step,
        loader_samples_per_s=rate,
        loader_over_step=rate * step / recipe.batch,
    )


class _Bare:
    """The same modules, optimiser and accumulation, on one batch that is there already, and nothing else."""

    def __init__(self, trainer: Trainer) -> None:
        self.recipe, self.device = trainer.recipe, trainer.device
        self.model = copy.deepcopy(trainer.checkpoint.model).to(self.device).channels_last().train()
        trained = freeze_all_but(self.model, self.recipe)
        self.trained, self.optimizer = list(trained.values()), make_optimizer(trained, self.recipe)
        self.losses_of = StageLoss(self.model, trainer.checkpoint.scheduler, self.recipe)
        self.batch = a_batch(trainer.checkpoint.card.config, self.recipe, self.recipe.batch, self.device)
        self.seconds: list[float] = []

    def turn(self, timed: bool) -> None:
        """So many steps."""
        for _ in range(TURN):
            start = time.perf_counter()
            accumulate(
                self.losses_of,
                self.trained,
                self.batch,
                self.recipe.micro_batch,
                side_by_side=side_by_side(self.device),
            )
            torch.nn.utils.clip_grad_norm_(self.trained, self.recipe.clip_norm)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            if timed:
                self.seconds.append(time.perf_counter() - start)


def _loader_rate(trainer: Trainer) -> float:
    """Samples per second of the loader when nobody makes it wait."""
    recipe = trainer.recipe
    batches = trainer.batches(range(recipe.batch), range(10**6))
    next(batches)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < 2:
        next(batches)
        count += recipe.batch
    return count / (time.perf_counter() - start)
