"""AdamW, its learning rate, its state as a safetensors file; and the running mean of what it trains."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from emo_core.training.recipes import Recipe

WARM_UP = 0.1
"""Share of a one-cycle run in which the rate rises."""


def learning_rate(recipe: Recipe, step: int) -> float:
    """The rate of a step (counted from 0): constant as in the paper, or one cycle."""
    if not recipe.one_cycle:
        return recipe.learning_rate
    share = (step + 0.5) / recipe.steps
    if share < WARM_UP:
        return recipe.learning_rate * share / WARM_UP
    return recipe.learning_rate * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP))) / 2


def make_optimizer(trained: dict[str, nn.Parameter], recipe: Recipe) -> torch.optim.AdamW:
    """AdamW over the trained parameters; biases and norms, which have one dimension, do not decay."""
    groups = [
        {"params": [p for p in trained.values() if p.dim() > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained.values() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, recipe.beta2), fused=True)


def save_optimizer(optimizer: torch.optim.AdamW, trained: dict[str, nn.Parameter], path: Path) -> None:
    """Write the state of every parameter under the parameter's name."""
    state = {
        f"{name}/{key}": value.contiguous()
        for name, parameter in trained.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    save_file(state, path)


def load_optimizer(optimizer: torch.optim.AdamW, trained: dict[str, nn.Parameter], path: Path) -> None:
    """Read what `save_optimizer` wrote. A parameter that has not had a gradient yet has no state."""
    saved: dict[str, dict[str, Tensor]] = {}
    for path_in_file, value in load_file(path).items():
        name, key = path_in_file.rsplit("/", 1)
        saved.setdefault(name, {})[key] = value
    for name, state in saved.items():
        parameter = trained[name]
        # Moments are laid out in memory as their parameter is.
        optimizer.state[parameter] = {
            key: torch.empty_like(parameter).copy_(value)
            if value.shape == parameter.shape
            else value.to(parameter.device)
            for key, value in state.items()
        }


def save_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write parameters, or what stands for them, by name."""
    save_file({name: value.detach().contiguous() for name, value in weights.items()}, path)


@torch.no_grad()
def load_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Read what `save_weights` wrote into the same parameters. Raises ValueError where the names differ."""
    saved = load_file(path)
    if saved.keys() != weights.keys():
        raise ValueError(
            f"{path}: holds other parameters than this run trains: {sorted(saved.keys() ^ weights.keys())}"
        )
    for name, value in weights.items():
        value.copy_(saved[name])


class RunningMean:
    """The exponential moving average of trained parameters, in float32.

    Not in the paper. decay: how much of it a step keeps; less in the first steps, when the weights are still far off.
    """

    def __init__(self, trained: Mapping[str, nn.Parameter], decay: float) -> None:
        self._trained, self._decay = trained, decay
        self.weights = {name: parameter.detach().clone() for name, parameter in trained.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After the optimiser's step number `step`, counted from 0."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.weights.values()), [p.detach() for p in self._trained.values()], 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the mean weights while the block runs."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self._trained.items():
            kept = parameter.detach().clone()
            parameter.copy_(self.weights[name])
            self.weights[name].copy_(kept)
