"""The one loop that trains every stage: draw, step, write down, save; and go on exactly where it stopped."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from emo_core.checkpoint import Checkpoint
from emo_core.training.batch import draw_batch
from emo_core.training.latents import LatentCache
from emo_core.training.optim import learning_rate, load_optimizer, make_optimizer, save_optimizer
from emo_core.training.preview import write_preview
from emo_core.training.recipes import Recipe
from emo_core.training.run_folder import RunFolder
from emo_core.training.stages import freeze_all_but
from emo_core.training.step import accumulate
from emo_data.cores import cores
from emo_data.dataset.loader import ClipReader

OnStep = Callable[[int, int, str], None]
"""(steps done, steps in all, note): called after every step."""


class DivergedError(RuntimeError):
    """The loss is no longer a number."""


@dataclass
class Trainer:
    """A stage in training; `emo_core.training.prepare` makes one."""

    recipe: Recipe
    checkpoint: Checkpoint
    reader: ClipReader
    cache: LatentCache
    run: RunFolder
    device: torch.device

    def train(self, on_step: OnStep | None = None) -> None:
        """Train to the last step and write RUN/model. Where the run has its model already, nothing is done."""
        if self.run.finished():
            return
        recipe, scheduler = self.recipe, self.checkpoint.scheduler
        model = self.checkpoint.model.to(self.device).channels_last()
        model.backbone.gradient_checkpointing = recipe.gradient_checkpointing
        model.reference_net.gradient_checkpointing = recipe.gradient_checkpointing
        trained = freeze_all_but(model, recipe)
        parameters, side_by_side = list(trained.values()), _side_by_side(self.device)
        optimizer = make_optimizer(trained, recipe)
        clips = self.reader.clips()
        first = self.run.resume(model)
        if first:
            load_optimizer(optimizer, trained, self.run.optimizer_file(first))
        model.train()
        for step in range(first, recipe.steps):
            began = time.perf_counter()
            batch = draw_batch(recipe, self.checkpoint.card.config, clips, self.cache, step).to(self.device)
            rate = learning_rate(recipe, step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = accumulate(model, parameters, scheduler, batch, recipe, side_by_side)
            if not math.isfinite(loss):
                raise DivergedError(f"loss {loss} at step {step + 1}; {self.run.folder} keeps the last good checkpoint")
            norm = torch.nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
            if not torch.isfinite(norm):
                raise DivergedError(f"gradient {norm} at step {step + 1}; {self.run.folder} keeps the last checkpoint")
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            done, seconds = step + 1, time.perf_counter() - began
            self.run.record({"step": done, "loss": loss, "lr": rate, "samples_per_s": recipe.batch / seconds})
            if done % recipe.checkpoint_every == 0 and done < recipe.steps:
                self.run.save(self.checkpoint, done, lambda path: save_optimizer(optimizer, trained, path))
            if done % recipe.preview_every == 0 or done == recipe.steps:
                model.eval()
                write_preview(self.run.folder / "previews", self.checkpoint, clips[0], self.cache, self.reader, done)
                model.train()
            if on_step is not None:
                on_step(done, recipe.steps, f"loss {loss:.3f}")
        model.eval()
        self.run.finish(self.checkpoint)


def _side_by_side(device: torch.device) -> int:
    """How many micro-batches fill the device: on a CPU as many as it has cores beside each operation's own threads."""
    if device.type != "cpu":
        return 1
    return max(1, cores() // torch.get_num_threads())
