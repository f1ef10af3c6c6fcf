"""From samples to the tensors of one step.

What is random about a step comes from (seed, stage, step), and each sample's noise from the lane, too: no step depends
on the one before, and no sample on which process makes it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emo_core.diffusion import mix_noise
from emo_core.model.config import ModelConfig
from emo_core.training.recipes import Recipe
from emo_data.dataset.sample import Origin, Samples
from emo_data.dataset.window import mouth_mask, region_mask, region_of


@dataclass(frozen=True)
class Batch:
    """B samples. In stage 1 a sample is one frame (F = 1) without motion frames (N = 0)."""

    origins: tuple[Origin, ...]
    latents: Tensor
    """(B, F, C, H, W), clean."""
    reference: Tensor
    """(B, C, H, W)."""
    motion: Tensor
    """(B, N, C, H, W)."""
    mask: Tensor
    """(B, 1, pixels, pixels)."""
    audio: Tensor | None
    """(B, F, 2m + 1, L, D), zero where dropped; None in stage 1."""
    speed: Tensor | None
    """(B, F, 2m + 1) in degrees per frame; None before stage 3."""
    keep_reference: Tensor
    """(B,) 0 where the reference is dropped."""
    keep_motion: Tensor
    """(B,) 0 where the clip is treated as a video's first."""
    noise: Tensor
    """(B, F, C, H, W)."""
    weight: Tensor
    """(B, F, 1, H, W) of the squared error, with mean 1 in every sample."""
    strata: Tensor
    """(B,) in 0-1: the timesteps, as shares of the schedule."""

    def part(self, start: int, end: int) -> "Batch":
        """Samples start to end, for accumulation."""
        return replace(self, origins=self.origins[start:end], **self._each(lambda value: value[start:end]))

    def to(self, device: torch.device) -> "Batch":
        """The same on a device."""
        return replace(self, **self._each(lambda value: value.to(device, non_blocking=True)))

    def _each(self, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        return {key: change(value) for key, value in vars(self).items() if isinstance(value, Tensor)}


def batches(
    samples: Iterator[Samples],
    recipe: Recipe,
    config: ModelConfig,
    lanes: range,
    steps: range,
    encode: Callable[[Tensor], Tensor],
) -> Iterator[Batch]:
    """The lanes' part of the batch of every step.

    samples: their readings in the order of `Order.reads`. encode: pictures or stored latents -> latents.
    """
    now: dict[int, Samples] = {}
    for step in steps:
        for lane in lanes:
            if lane not in now or step not in now[lane]["steps"]:
                now[lane] = next(samples)
        yield _batch(recipe, config, step, lanes, [now[lane] for lane in lanes], encode)


def _batch(
    recipe: Recipe,
    config: ModelConfig,
    step: int,
    lanes: range,
    samples: list[Samples],
    encode: Callable[[Tensor], Tensor],
) -> Batch:
    """samples: of each lane."""
    places = [one["steps"].index(step) for one in samples]

    def seen(key: str) -> Tensor:
        return torch.stack([one[key][place] for one, place in zip(samples, places, strict=True)])

    # Of all lanes, in every process: to draw them costs nothing beside a process's own noise.
    rng, mine = np.random.default_rng([recipe.seed, recipe.stage, step, 0, 2]), slice(lanes.start, lanes.stop)
    even = rng.permutation((np.arange(recipe.batch) + rng.random(recipe.batch)) / recipe.batch)[mine]
    strata = even**recipe.noise_power
    dropped, first = torch.from_numpy(rng.random((2, recipe.batch), np.float32))[:, mine]
    grow = rng.uniform(0, recipe.grow_mask, (recipe.batch, 2))[mine]
    boxes = seen("box").numpy()
    frames = boxes.shape[1]
    regions = seen("region").numpy() if recipe.region == "clip" else np.stack([region_of(one) for one in boxes])
    latents = encode(torch.cat([seen("run"), seen("reference")[:, None]], dim=1))
    audio = None
    if recipe.stage >= 2:
        heard = (dropped >= recipe.drop_all + recipe.drop_audio).float()
        audio = seen("audio").float() * heard[:, None, None, None, None]
    return Batch(
        origins=tuple(one["origins"][place] for one, place in zip(samples, places, strict=True)),
        latents=latents[:, -frames - 1 : -1],
        reference=latents[:, -1],
        motion=latents[:, : -frames - 1],
        mask=torch.from_numpy(region_mask(regions, config.size, grow)),
        audio=audio,
        speed=seen("speed") if recipe.stage >= 3 else None,
        keep_reference=(dropped >= recipe.drop_all).float(),
        keep_motion=(first >= recipe.zero_motion).float(),
        noise=_noise(recipe, config, step, lanes, frames),
        weight=_error_weight(boxes, config, recipe.mouth_weight),
        strata=torch.from_numpy(strata).float(),
    )


def _error_weight(boxes: np.ndarray, config: ModelConfig, mouth_weight: float) -> Tensor:
    """(B, F, 1, H, W), each sample's with mean 1."""
    _, height, width = config.latent_shape
    if mouth_weight == 1:
        return torch.ones(*boxes.shape[:2], 1, height, width)
    weight = torch.from_numpy(1 + (mouth_weight - 1) * mouth_mask(boxes, width))
    return weight / weight.mean(dim=(1, 2, 3, 4), keepdim=True)


def _noise(recipe: Recipe, config: ModelConfig, step: int, lanes: range, frames: int) -> Tensor:
    """(B, F, C, H, W), part of which neighbouring frames have in common where the model is of that kind."""
    rngs = [np.random.default_rng([recipe.seed, recipe.stage, step, lane, 1]) for lane in lanes]

    def draw(count: int) -> np.ndarray:
        return np.stack([rng.standard_normal((count, *config.latent_shape), np.float32) for rng in rngs])

    own = draw(frames)
    if not config.common_noise or frames == 1:
        return torch.from_numpy(own)
    keys = draw(3 + (frames - 1) // config.noise_drift)
    places = np.stack([rng.random() + np.arange(frames) / config.noise_drift for rng in rngs])
    return mix_noise(keys, places, own, config.common_noise)
