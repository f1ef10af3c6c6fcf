"""The one loop that trains every stage: draw, step, write down, save; and go on exactly where it stopped."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from emo_core.checkpoint import Checkpoint
from emo_core.training.batch import draw_batch
from emo_core.training.latents import LatentCache
from emo_core.training.optim import learning_rate, load_optimizer, make_optimizer, save_optimizer
from emo_core.training.recipes import Recipe
from emo_core.training.run_folder import RunFolder
from emo_core.training.stages import freeze_all_but
from emo_core.training.step import accumulate
from emo_data.dataset.sample import Clip

OnStep = Callable[[int, int, str], None]
"""(steps done, steps in all, note): called after every step."""


class DivergedError(RuntimeError):
    """The loss is no longer a number."""


@dataclass
class Trainer:
    """A stage in training."""

    recipe: Recipe
    checkpoint: Checkpoint
    clips: list[Clip]
    cache: LatentCache
    run: RunFolder
    device: torch.device

    def train(self, on_step: OnStep, preview: Callable[[Checkpoint, int], None]) -> None:
        """Train to the last step; preview is called with the model in eval mode every `preview_every` steps."""
        model = self.checkpoint.model.to(self.device)
        trained = freeze_all_but(model, self.recipe.stage)
        optimizer = make_optimizer(trained, self.recipe)
        first = self.run.resume(model)
        if first:
            load_optimizer(optimizer, trained, self.run.optimizer_file(first))
        model.train()
        for step in range(first, self.recipe.steps):
            began = time.perf_counter()
            batch = draw_batch(self.recipe, self.checkpoint.card.config, self.clips, self.cache, step).to(self.device)
            rate = learning_rate(self.recipe, step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = accumulate(
                model, self.checkpoint.scheduler, batch, self.recipe.micro_batch, self.recipe.min_snr
            )
            if not torch.isfinite(torch.tensor(loss)):
                raise DivergedError(f"the loss of step {step + 1} is {loss}; {self.run.folder} keeps the last checkpoint")
            torch.nn.utils.clip_grad_norm_(trained.values(), self.recipe.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            done = step + 1
            seconds = time.perf_counter() - began
            self.run.record(
                {"step": done, "loss": loss, "lr": rate, "samples_per_s": self.recipe.batch / seconds}
            )
            if done % self.recipe.checkpoint_every == 0 and done < self.recipe.steps:
                self.run.save(self.checkpoint, done, lambda path: save_optimizer(optimizer, trained, path))
            if done % self.recipe.preview_every == 0 or done == self.recipe.steps:
                model.eval()
                preview(self.checkpoint, done)
                model.train()
            on_step(done, self.recipe.steps, f"loss {loss:.3f}")
        model.eval()
        self.run.finish(self.checkpoint)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a metrics.jsonl."""
    return [json.loads(line) for line in path.read_text().splitlines()]
