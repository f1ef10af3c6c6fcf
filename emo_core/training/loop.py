"""The one loop that trains every stage, in one process or in many: step, write down, save; go on exactly where it
stopped."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import torch
from torch import Tensor, nn

from emo_core.ahead import ahead
from emo_core.checkpoint import Checkpoint
from emo_core.lanes import side_by_side
from emo_core.measure.clock import matmul_rate
from emo_core.training.batch import Batch, batches
from emo_core.training.cost import count_step
from emo_core.training.latents import LatentCache, codec_fingerprint, encode
from emo_core.training.optim import (
    RunningMean,
    learning_rate,
    load_optimizer,
    load_weights,
    make_optimizer,
    save_optimizer,
    save_weights,
)
from emo_core.training.preview import write_preview
from emo_core.training.ranks import Ranks
from emo_core.training.recipes import Recipe
from emo_core.training.record import Record
from emo_core.training.run_folder import RunFolder
from emo_core.training.stages import freeze_all_but
from emo_core.training.step import StageLoss, accumulate
from emo_core.training.validate import fixed_batch, validation_loss
from emo_data.dataset.index import ClipIndex
from emo_data.dataset.loader import load
from emo_data.dataset.order import Order
from emo_data.dataset.sample import Wants

ROUND = 16
"""Clips that each process encodes before all of them look up together."""
OnStep = Callable[[int, int, str], None]
"""(steps done, steps in all, note): called after every step."""


class Notice(IntEnum):
    """What the outside wants of a run."""

    NONE = 0
    SAVE = 1
    """The machine may soon be gone: write a checkpoint now, and go on."""
    STOP = 2
    """Write a checkpoint and stop."""


class DivergedError(RuntimeError):
    """The loss is no longer a number."""


class StoppedError(Exception):
    """The run was asked to stop, and can go on."""


@dataclass
class Trainer:
    """A stage in training; `emo_core.training.prepare` makes one."""

    recipe: Recipe
    checkpoint: Checkpoint
    index: ClipIndex
    held_out: ClipIndex | None
    cache: str | None
    run: RunFolder
    device: torch.device
    ranks: Ranks
    readers: int = 0
    """That read samples ahead, besides this one."""

    def train(self, on_step: OnStep | None = None, notice: Callable[[], Notice] = lambda: Notice.NONE) -> None:
        """Train to the last step and write RUN/model. Where the run has its model already, nothing is done.

        notice: asked after every step. Raises StoppedError, or DivergedError with the samples that are to blame; both
        leave a checkpoint of the last good step.
        """
        if self.ranks.of_first(self.run.finished()):
            return
        recipe, ranks = self.recipe, self.ranks
        model = self.checkpoint.model.to(self.device).channels_last()
        self.checkpoint.codec.to(self.device)
        for unet in (model.backbone, model.reference_net):
            unet.gradient_checkpointing = recipe.gradient_checkpointing
            if recipe.compiled:
                unet.compile(dynamic=False)
        self.trained = freeze_all_but(model, recipe)
        self.optimizer = make_optimizer(self.trained, recipe)
        self.mean = None if recipe.ema_decay is None else RunningMean(self.trained, recipe.ema_decay)
        losses_of = StageLoss(model, self.checkpoint.scheduler, recipe)
        together = ranks.together(losses_of)
        first = self._resume()
        self._fill_cache(on_step, notice)
        held_out = self._held_out()
        model.train()
        steps, lanes = range(first, recipe.steps), ranks.lanes(recipe.batch)
        sample, rate = self._utilisation()
        with Record(self.run, first) if ranks.leads else nullcontext() as record:
            waiting = time.perf_counter()
            for step, batch in zip(steps, ahead(self.batches(lanes, steps)), strict=True):
                waited = time.perf_counter() - waiting
                line = self._step(step, batch.to(self.device), losses_of, together)
                done = step + 1
                seconds = time.perf_counter() - waiting
                line |= {"samples_per_s": recipe.batch / seconds, "data_wait_share": waited / seconds}
                if rate:
                    line["model_flop_utilisation"] = sample * recipe.batch / seconds / (rate * ranks.size)
                if self.held_out is not None and (done % recipe.validate_every == 0 or done == recipe.steps):
                    line["validation_loss"] = self._validate(losses_of, held_out)
                asked = self._asked(notice)
                saving = bool(asked) or (done % recipe.checkpoint_every == 0 and done < recipe.steps)
                if record is not None:
                    record.add({"step": done, **line})
                    if saving:
                        record.flush()  # first, so that no checkpoint is without what led to it
                if saving:
                    self._save(done)
                if asked is Notice.STOP:
                    raise StoppedError(f"{self.run.url}: stopped after step {done} of {recipe.steps}, which is kept")
                if ranks.leads and (done % recipe.preview_every == 0 or done == recipe.steps):
                    self._preview(done)
                if on_step is not None:
                    on_step(done, recipe.steps, f"loss {line['loss']:.3f}")
                waiting = time.perf_counter()
        model.eval()
        if ranks.leads:
            with self._mean_in_place():
                self.run.finish(self.checkpoint)
        ranks.of_first(None)

    def _utilisation(self) -> tuple[int, float]:
        """Operations of a sample, and those per second that a device can do; zero on a CPU, which is not judged so."""
        if self.device.type == "cpu":
            return 0, 0.0
        dtype = torch.bfloat16 if self.recipe.bf16 else torch.float32
        return count_step(self.checkpoint.card.config, self.recipe), matmul_rate(self.device, dtype)

    def _step(self, step: int, batch: Batch, losses_of: StageLoss, together: nn.Module) -> dict[str, float]:
        recipe, ranks = self.recipe, self.ranks
        rate = learning_rate(recipe, step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        parameters = list(self.trained.values())
        losses = accumulate(
            together,
            parameters,
            batch,
            recipe.micro_batch,
            share=len(batch.origins) * ranks.size / recipe.batch,
            side_by_side=side_by_side(self.device) if ranks.size == 1 else 1,
        )
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, recipe.clip_norm))
        (loss,) = ranks.total(float(losses.sum()) / recipe.batch, device=self.device)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._diverged(step, batch, losses, losses_of)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.mean is not None:
            self.mean.update(step)
        return {"loss": loss, "lr": rate, "gradient_norm": norm}

    def _diverged(self, step: int, batch: Batch, losses: Tensor, losses_of: StageLoss) -> None:
        """Name the samples whose loss or gradient is no number; the weights are still those of the step before."""
        self.optimizer.zero_grad(set_to_none=True)
        bad = [origin for origin, loss in zip(batch.origins, losses, strict=True) if not torch.isfinite(loss)]
        if not any(self.ranks.of_all(bad)):
            for number, origin in enumerate(batch.origins):
                one = losses_of(batch.part(number, number + 1)).sum()
                gradients = torch.autograd.grad(one, list(self.trained.values()))
                bad += [] if all(torch.isfinite(gradient).all() for gradient in gradients) else [origin]
        blamed = [
            f"{self.index.name(origin.clip)} from frame {origin.start}, reference {origin.reference}"
            for origins in self.ranks.of_all(bad)
            for origin in origins
        ] or ["all of the step's samples together"]
        if step:
            self._save(step)
        self.ranks.of_first(None)  # nobody leaves, which would end the others, before it is written
        raise DivergedError(
            f"the loss or its gradient is not a number at step {step + 1}, because of {'; '.join(blamed)}. "
            f"{self.run.url} keeps the weights of step {step}. Look at these clips, leave them out with --keep, or "
            "begin another run with a lower learning rate"
        )

    def _resume(self) -> int:
        """Put the newest checkpoint into the model and what trains it; return its step, or 0."""
        step = self.ranks.of_first(self.run.newest())
        if step:
            self.run.read(step, "trained.safetensors", lambda path: load_weights(self.trained, path))
            self.run.read(
                step, "optimizer.safetensors", lambda path: load_optimizer(self.optimizer, self.trained, path)
            )
            if self.mean is not None:
                weights = self.mean.weights
                self.run.read(step, "mean.safetensors", lambda path: load_weights(weights, path))
        return step

    def _save(self, step: int) -> None:
        if not self.ranks.leads:
            return
        writers: dict[str, Callable] = {
            "trained.safetensors": lambda path: save_weights(self.trained, path),
            "optimizer.safetensors": lambda path: save_optimizer(self.optimizer, self.trained, path),
        }
        if self.mean is not None:
            weights = self.mean.weights
            writers["mean.safetensors"] = lambda path: save_weights(weights, path)
        self.run.save(step, writers)

    @cached_property
    def _cache(self) -> LatentCache | None:
        if self.cache is None:
            return None
        return LatentCache(self.cache, codec_fingerprint(self.checkpoint.codec), self.index)

    def _fill_cache(self, on_step: OnStep | None, notice: Callable[[], Notice]) -> None:
        """Each process encodes its share of the clips that are not in the cache yet, a round at a time."""
        cache = self._cache
        if cache is None:
            return
        ranks = self.ranks
        missing = ranks.of_first(cache.missing() if ranks.leads else [])
        for start in range(0, len(missing), ROUND * ranks.size):
            mine = missing[start : start + ROUND * ranks.size][ranks.rank :: ranks.size]
            cache.fill(self.checkpoint.codec, mine, self.recipe.bf16)
            done = min(start + ROUND * ranks.size, len(missing))
            if on_step is not None:
                on_step(0, self.recipe.steps, f"latents of {done} of {len(missing)} clips")
            if self._asked(notice) is Notice.STOP:
                raise StoppedError(f"{self.run.url}: stopped with the latents of {done} of {len(missing)} clips kept")

    def batches(self, lanes: range, steps: range) -> Iterator[Batch]:
        """The part of every step's batch that some lanes are."""
        recipe, wants = self.recipe, self._wants(self._cache)
        order = Order.over(
            self.index.lengths,
            wants.frames,
            wants.before,
            lanes=recipe.batch,
            windows=recipe.windows,
            seed=(recipe.seed, recipe.stage),
        )
        samples = load(self.index, wants, order, lanes, steps, self.readers)
        return batches(samples, recipe, self.checkpoint.card.config, lanes, steps, self._encode)

    def _encode(self, shown: Tensor) -> Tensor:
        if shown.dtype == torch.float16:
            return shown.float()
        return encode(self.checkpoint.codec, shown, self.recipe.bf16)

    def _wants(self, latents: LatentCache | None) -> Wants:
        recipe, config = self.recipe, self.checkpoint.card.config
        frames, before = recipe.window(config)
        return Wants(
            frames=frames,
            before=before,
            margin=config.audio_margin,
            listening=recipe.stage >= 2,
            speed=recipe.stage >= 3,
            seed=(recipe.seed, recipe.stage),
            latents=latents,
        )

    def _held_out(self) -> Batch | None:
        """This process's samples of held-out people; where there are many processes, some have none."""
        if self.held_out is None:
            return None
        config, wants = self.checkpoint.card.config, self._wants(None)
        return fixed_batch(self.recipe, config, self.held_out, wants, self.ranks, self._encode)

    def _validate(self, losses_of: StageLoss, held_out: Batch | None) -> float:
        losses_of.eval()
        with self._mean_in_place():
            loss = validation_loss(losses_of, held_out, self.recipe.micro_batch, self.ranks, self.device)
        losses_of.train()
        return loss

    def _preview(self, step: int) -> None:
        model = self.checkpoint.model.eval()
        with self._mean_in_place():
            write_preview(self.run, self.checkpoint, self.index, self.recipe.bf16, step)
        model.train()

    def _mean_in_place(self) -> AbstractContextManager[None]:
        return nullcontext() if self.mean is None else self.mean.in_place()

    def _asked(self, notice: Callable[[], Notice]) -> Notice:
        """The most urgent of what is asked of any process."""
        asked = notice()
        save, stop = self.ranks.total(asked == Notice.SAVE, asked == Notice.STOP, device=self.device)
        return Notice.STOP if stop else Notice.SAVE if save else Notice.NONE
