"""AdamW, its learning rate, and its state as a safetensors file."""

import math
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
