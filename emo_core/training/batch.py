"""From samples to the tensors of one step.

Everything random in a sample comes from (seed, stage, step, lane): no step depends on the one before, and no sample on
which process makes it.
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
from emo_data.dataset.sample import Samples
from emo_data.dataset.window import mouth_masks, region_mask


@dataclass(frozen=True)
class Batch:
    """B samples. In stage 1 a sample is one frame (F = 1) without motion frames (N = 0)."""

    names: tuple[str, ...]
    """What a person knows the samples by."""
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
        return replace(self, names=self.names[start:end], **self._each(lambda value: value[start:end]))

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
        drawn = [_draw(recipe, config, now[lane], step) for lane in lanes]
        whole = np.random.default_rng([recipe.seed, recipe.stage, step, 0, 2])
        strata = whole.permutation((np.arange(recipe.batch) + whole.random(recipe.batch)) / recipe.batch)
        yield _join(drawn, config.common_noise, torch.from_numpy(strata[lanes.start : lanes.stop]).float(), encode)


def _draw(recipe: Recipe, config: ModelConfig, samples: Samples, step: int) -> dict[str, Any]:
    """One sample, with what is random about it besides its window. Tensors are not yet latents."""
    place = samples["steps"].index(step)
    rng = np.random.default_rng([recipe.seed, recipe.stage, step, samples["lane"], 1])
    box = samples["box"][place].numpy()
    dropped, first = rng.random(2)
    grow = tuple(rng.uniform(0, recipe.grow_mask, 2))
    drawn = {
        "name": samples["names"][place],
        "run": samples["run"][place],
        "reference": samples["reference"][place],
        "mask": torch.from_numpy(region_mask(box, config.size, grow)),
        "keep_reference": torch.tensor(float(dropped >= recipe.drop_all)),
        "keep_motion": torch.tensor(float(first >= recipe.zero_motion)),
        "weight": _error_weight(box, config, recipe.mouth_weight),
        **_draw_noise(rng, len(box), config),
    }
    if recipe.stage >= 2:
        heard = dropped >= recipe.drop_all + recipe.drop_audio
        drawn["audio"] = samples["audio"][place].float() * float(heard)
    if recipe.stage >= 3:
        drawn["speed"] = samples["speed"][place]
    return drawn


def _join(
    drawn: list[dict[str, Any]], common_noise: float, strata: Tensor, encode: Callable[[Tensor], Tensor]
) -> Batch:
    stacked = {key: torch.stack([one[key] for one in drawn]) for key in drawn[0] if key != "name"}
    frames = stacked["noise"].shape[1]
    if "keys" in stacked:
        keys, places, own = (stacked.pop(key).numpy() for key in ("keys", "places", "noise"))
        stacked["noise"] = mix_noise(keys, places, own, common_noise)
    shown = encode(torch.cat([stacked.pop("run"), stacked.pop("reference")[:, None]], dim=1))
    return Batch(
        names=tuple(one["name"] for one in drawn),
        latents=shown[:, -frames - 1 : -1],
        reference=shown[:, -1],
        motion=shown[:, : -frames - 1],
        audio=stacked.pop("audio", None),
        speed=stacked.pop("speed", None),
        strata=strata,
        **stacked,
    )


def _error_weight(box: np.ndarray, config: ModelConfig, mouth_weight: float) -> Tensor:
    """(F, 1, H, W) with mean 1."""
    _, height, width = config.latent_shape
    if mouth_weight == 1:
        return torch.ones(len(box), 1, height, width)
    weight = torch.from_numpy(1 + (mouth_weight - 1) * mouth_masks(box, width))
    return weight / weight.mean()


def _draw_noise(rng: np.random.Generator, frames: int, config: ModelConfig) -> dict[str, Tensor]:
    """Each frame's own noise (F, C, H, W), and where frames have some in common, what it is mixed from."""
    drawn = {"noise": torch.from_numpy(rng.standard_normal((frames, *config.latent_shape), dtype=np.float32))}
    if config.common_noise:
        drawn["places"] = torch.from_numpy(rng.random() + np.arange(frames) / config.noise_drift)
        count = 3 + (frames - 1) // config.noise_drift
        keys = rng.standard_normal((count, *config.latent_shape), dtype=np.float32)
        drawn["keys"] = torch.from_numpy(keys)
    return drawn
