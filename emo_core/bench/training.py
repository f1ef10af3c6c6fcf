"""What training costs: full-size memory and operations counted without a device, the loop timed against a bare one."""

import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from diffusers import DDIMScheduler
from pydantic import BaseModel, ConfigDict, Field

from emo_core.diffusion import noise_schedule
from emo_core.lanes import side_by_side
from emo_core.measure.clock import device_name, forget_peak, matmul_rate, peak_bytes, seconds
from emo_core.model.config import ModelConfig, sd15
from emo_core.model.emo import EMO
from emo_core.training.cost import GIB, Memory, a_batch, count_memory, count_step, staged
from emo_core.training.loop import Trainer
from emo_core.training.optim import RunningMean, make_optimizer
from emo_core.training.plan import plan
from emo_core.training.prepare import prepare
from emo_core.training.recipes import Recipe, stage_recipe
from emo_core.training.record import read_metrics
from emo_core.training.stages import freeze_all_but
from emo_core.training.step import StageLoss, accumulate


class Timed(BaseModel):
    """A stage of the small model, timed on a dataset."""

    model_config = ConfigDict(extra="forbid")

    stage: int
    reads: Literal["latents", "pictures"] = Field(description="what the loader reads: a cache, or the videos")
    loop_over_bare: float = Field(
        description="of the loop, loader and all, over as many bare ones on a batch that is there; median of turns"
    )
    step_seconds: float
    bare_seconds: float
    data_wait_share: float = Field(description="of the loop's time, until its batch was there")
    samples_per_s: float
    loader_samples_per_s: float = Field(description="the loader alone, as fast as it can")
    loader_over_step: float = Field(description="over what the steps take")


class FullSize(BaseModel):
    """A stage of the full-size model on an accelerator: steps of one micro-batch, beside all that AdamW keeps."""

    model_config = ConfigDict(extra="forbid")

    samples_per_s: float
    model_flop_utilisation: float = Field(description="of what a large bf16 matrix product reaches on the device")
    peak_gib: float = Field(description="most memory of the device that was in use")


class TrainingFigures(BaseModel):
    """All figures of `emo bench train`."""

    model_config = ConfigDict(extra="forbid")

    device: str
    torch: str
    loop_over_bare: float = Field(description="the worst stage's, where latents are read")
    data_wait_share: float = Field(description="the worst, whatever is read; so the next one")
    loader_over_step: float
    samples_per_s: float = Field(description="of stage 2")
    stages: list[Timed]
    memory: dict[str, Memory] = Field(description="of the full-size model, by stage, one device, counted")
    sample_tflop: dict[str, float] = Field(description="of the full-size model, by stage, forth and back")
    measured: dict[str, FullSize] = Field(description="the full-size model by stage; empty on a CPU")


def bench_training(
    data: str, steps: int, device: torch.device, on_progress: Callable[[int, int], None]
) -> TrainingFigures:
    """Every stage of the small model on a dataset; the full-size one counted. steps: that are timed, of each stage."""
    stages: list[Timed] = []
    with tempfile.TemporaryDirectory() as folder:
        init = None
        for stage in (1, 2, 3):
            for reads in ("latents", "pictures"):
                trainer = _trainer(stage, steps, data, Path(folder) / reads, init, reads == "latents", device)
                stages.append(_time_stage(trainer))
                on_progress(len(stages), 7)
            init = trainer.run.model
    del trainer
    recipes = {f"stage {stage}": stage_recipe(stage, "sd15") for stage in (1, 2, 3)}
    figures = TrainingFigures(
        device=device_name(device),
        torch=torch.__version__,
        loop_over_bare=max(one.loop_over_bare for one in stages if one.reads == "latents"),
        data_wait_share=max(one.data_wait_share for one in stages),
        loader_over_step=min(one.loader_over_step for one in stages),
        samples_per_s=stages[2].samples_per_s,
        stages=stages,
        memory={name: count_memory(sd15(), recipe) for name, recipe in recipes.items()},
        sample_tflop={name: count_step(sd15(), recipe) / 1e12 for name, recipe in recipes.items()},
        measured={}
        if device.type == "cpu"
        else {name: measure_full_size(sd15(), recipe, device) for name, recipe in recipes.items()},
    )
    on_progress(7, 7)
    return figures


def measure_full_size(config: ModelConfig, recipe: Recipe, device: torch.device) -> FullSize:
    """Steps of one micro-batch with new weights: what they hold does not change what they cost."""
    recipe = recipe.model_copy(update={"batch": recipe.micro_batch})
    model, _ = staged(config, recipe)
    bare = _Bare(model, noise_schedule(config.prediction), config, recipe, device)
    mean = None if recipe.ema_decay is None else RunningMean(bare.trained, recipe.ema_decay)
    bare.turn()
    forget_peak(device)
    rate = recipe.batch * TURN / bare.turn()
    peak = peak_bytes(device)
    del mean  # lived to be counted in the peak
    dtype = torch.bfloat16 if recipe.bf16 else torch.float32
    return FullSize(
        samples_per_s=rate,
        model_flop_utilisation=rate * count_step(config, recipe) / matmul_rate(device, dtype),
        peak_gib=peak / GIB,
    )


TURN = 10
"""Steps of the loop before as many bare ones; the first turn is not timed."""


def _trainer(
    stage: int, steps: int, data: str, folder: Path, init: str | None, cache: bool, device: torch.device
) -> Trainer:
    recipe = stage_recipe(stage, "tiny").model_copy(
        update={"steps": TURN + steps + 1, "checkpoint_every": 10**9, "preview_every": 10**9}
    )
    latents = str(folder / "latents") if cache else None
    return prepare(plan(recipe, data, folder / f"stage{stage}", init, cache=latents), device)


def _time_stage(trainer: Trainer) -> Timed:
    """The loop and the bare loop take turns, so that a machine that slows down slows both down."""
    recipe, given = trainer.recipe, trainer.checkpoint
    bare = _Bare(copy.deepcopy(given.model), given.scheduler, given.card.config, recipe, trainer.device)
    turns: list[tuple[float, float]] = []
    began = time.perf_counter()

    def on_step(done: int, _total: int, _note: str) -> None:
        nonlocal began
        if done and done % TURN == 0:  # 0: while latents are made
            ours = time.perf_counter() - began
            turns.append((ours / TURN, bare.turn() / TURN))
            began = time.perf_counter()

    trainer.train(on_step)
    told = read_metrics(trainer.run.folder)[TURN:-1]
    step = statistics.median(ours for ours, _ in turns[1:])
    rate = _loader_rate(trainer)
    return Timed(
        stage=recipe.stage,
        reads="pictures" if trainer.cache is None else "latents",
        loop_over_bare=statistics.median(ours / other for ours, other in turns[1:]),
        step_seconds=step,
        bare_seconds=statistics.median(other for _, other in turns[1:]),
        data_wait_share=statistics.fmean(line["data_wait_share"] for line in told),
        samples_per_s=recipe.batch / step,
        loader_samples_per_s=rate,
        loader_over_step=rate * step / recipe.batch,
    )


class _Bare:
    """The same modules, optimiser and accumulation, on one batch that is there already, and nothing else."""

    def __init__(
        self, model: EMO, scheduler: DDIMScheduler, config: ModelConfig, recipe: Recipe, device: torch.device
    ) -> None:
        self.recipe, self.device = recipe, device
        self.trained = freeze_all_but(model.to(device).channels_last().train(), recipe)
        self.optimizer = make_optimizer(self.trained, recipe)
        self.losses_of = StageLoss(model, scheduler, recipe)
        self.batch = a_batch(config, recipe, recipe.batch, device)

    def turn(self) -> float:
        """Seconds of so many steps."""
        return seconds(self._steps, self.device)

    def _steps(self) -> None:
        trained = list(self.trained.values())
        for _ in range(TURN):
            accumulate(
                self.losses_of,
                trained,
                self.batch,
                self.recipe.micro_batch,
                side_by_side=side_by_side(self.device),
            )
            torch.nn.utils.clip_grad_norm_(trained, self.recipe.clip_norm)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)


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
