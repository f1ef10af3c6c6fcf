"""From clips to the tensors of one step.

Everything random comes from (seed, stage, step): no step depends on the one before.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from emo_core.diffusion import mix_noise
from emo_core.model.config import ModelConfig
from emo_core.training.latents import LatentCache
from emo_core.training.recipes import Recipe
from emo_data.dataset.sample import Clip, make_sample
from emo_data.dataset.window import Window, draw_window, mouth_masks


@dataclass(frozen=True)
class Batch:
    """B samples. In stage 1 a sample is one frame (F = 1) without motion frames (N = 0)."""

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
        return self._each(lambda value: value[start:end])

    def to(self, device: torch.device) -> "Batch":
        """The same on a device."""
        return self._each(lambda value: value.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        return replace(self, **{key: change(value) for key, value in vars(self).items() if value is not None})


def _error_weight(clips: list[Clip], windows: list[Window], frames: int, side: int, mouth_weight: float) -> Tensor:
    masks = np.stack([mouth_masks(clips[w.clip].box[w.start : w.start + frames], side) for w in windows])
    weight = torch.from_numpy(1 + (mouth_weight - 1) * masks)
    return weight / weight.mean(dim=(1, 2, 3, 4), keepdim=True)


def _draw_noise(rng: np.random.Generator, shape: tuple[int, ...], config: ModelConfig) -> Tensor:
    """Noise (B, F, C, H, W) from anywhere in a video."""
    batch, frames, *picture = shape
    places = rng.random((batch, 1)) + np.arange(frames) / config.noise_drift
    keys = rng.standard_normal((batch, int(places.max()) + 2, *picture), dtype=np.float32)
    return mix_noise(keys, places, rng.standard_normal(shape, dtype=np.float32), config.common_noise)


def draw_batch(recipe: Recipe, config: ModelConfig, clips: list[Clip], cache: LatentCache, step: int) -> Batch:
    """The batch of a step (counted from 0)."""
    frames, before = (1, 0) if recipe.stage == 1 else (config.frames, config.motion_frames)
    rng = np.random.default_rng([recipe.seed, recipe.stage, step])
    lengths = np.array([clip.frames for clip in clips])
    windows = [draw_window(rng, lengths, frames, before) for _ in range(recipe.batch)]
    samples = [
        make_sample(
            clips[window.clip],
            window,
            frames=frames,
            margin=config.audio_margin,
            size=config.size,
            grow=tuple(rng.uniform(0, recipe.grow_mask, 2)),
        )
        for window in windows
    ]
    dropped = rng.random(recipe.batch)
    keep_reference = torch.from_numpy(dropped >= recipe.drop_all).float()
    audio = speed = None
    if recipe.stage >= 2:
        keep_audio = torch.from_numpy(dropped >= recipe.drop_all + recipe.drop_audio).float()
        audio = torch.from_numpy(np.stack([sample.audio for sample in samples if sample.audio is not None])).float()
        audio = audio * keep_audio.view(-1, 1, 1, 1, 1)
    if recipe.stage >= 3:
        speed = torch.from_numpy(np.stack([sample.speed for sample in samples]))
    stored = [cache.latents(clips[window.clip].clip_id) for window in windows]
    run = np.stack([latents[w.start - before : w.start + frames] for latents, w in zip(stored, windows, strict=True)])
    clip_latents = torch.from_numpy(run).float()
    latents = clip_latents[:, before:]
    strata = (np.arange(recipe.batch) + rng.random(recipe.batch)) / recipe.batch
    return Batch(
        latents=latents,
        reference=torch.from_numpy(
            np.stack([latents[w.reference] for latents, w in zip(stored, windows, strict=True)])
        ).float(),
        motion=clip_latents[:, :before],
        mask=torch.from_numpy(np.stack([sample.mask for sample in samples])),
        audio=audio,
        speed=speed,
        keep_reference=keep_reference,
        keep_motion=torch.from_numpy(rng.random(recipe.batch) >= recipe.zero_motion).float(),
        noise=_draw_noise(rng, tuple(latents.shape), config),
        weight=_error_weight(clips, windows, frames, latents.shape[-1], recipe.mouth_weight),
        strata=torch.from_numpy(rng.permutation(strata)),
    )
