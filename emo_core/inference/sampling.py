"""How a clip is sampled: guidance, steps, and the noise that it starts from."""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from torch import Tensor

from emo_core.diffusion import mix_noise
from emo_core.model.config import ModelConfig
from emo_data.errors import UserError

_COMMON, _OWN = 0, 1
"""Streams of random numbers."""


class Branch(NamedTuple):
    """One run of the Backbone per denoising step, and its part in the guided prediction."""

    sees: bool
    """Whether it is shown the reference."""
    hears: bool
    """Whether it hears the voice."""
    weight: float


UNGUIDED = [Branch(sees=True, hears=True, weight=1.0)]
"""What is run where there is no guidance."""
SchedulerName = Literal["ddim", "dpm++", "unipc"]
_SCHEDULERS: dict[SchedulerName, type[DDIMScheduler | DPMSolverMultistepScheduler | UniPCMultistepScheduler]] = {
    "ddim": DDIMScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
}
"""Not in the paper, but DDIM: solvers of higher order, that need fewer steps."""


@dataclass(frozen=True)
class Sampling:
    """How to sample: so many steps of a scheduler, and two scales of guidance (Not in the paper).

    Of the predictions p(sees, hears) the guided one is p(0, 0) + R (p(1, 0) - p(0, 0)) + A (p(1, 1) - p(1, 0)).
    """

    steps: int = 40
    reference_scale: float = 2.0
    """R: how strongly the portrait is followed."""
    audio_scale: float = 2.0
    """A: how strongly the voice is followed."""
    seed: int = 0
    scheduler: SchedulerName | None = None
    """None: the pipeline's own, which is DDIM (EMO 4.1) where nobody has put another in its place."""
    guided: tuple[float, float] = (0.0, 1.0)
    """Not in the paper: from which to which share of the steps guidance is computed. Before and after, the Backbone
    runs once per step instead of once per branch."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.reference_scale) and math.isfinite(self.audio_scale)):
            raise UserError(f"guidance {self.reference_scale}, {self.audio_scale}: give finite numbers, such as 2")
        first, last = self.guided
        if not 0 <= first <= last <= 1:
            raise UserError(f"guided {first:g} to {last:g}: give shares of the steps, 0 to 1, the smaller one first")

    def goes_with(self, other: "Sampling") -> bool:
        """Whether two videos can be denoised together: the same steps, and guidance in the same ones."""
        return all(getattr(self, name) == getattr(other, name) for name in ("steps", "scheduler", "guided"))

    def is_guided(self, step: int) -> bool:
        """Whether guidance is on in a step, counted from 0."""
        return self.guided[0] <= (step + 0.5) / self.steps <= self.guided[1]

    @property
    def branches(self) -> list[Branch]:
        """Those whose weight is not zero: one where both scales are 1, two where they are equal, three at most."""
        reference, audio = self.reference_scale, self.audio_scale
        every = [
            Branch(True, True, audio),
            Branch(True, False, reference - audio),
            Branch(False, False, 1 - reference),
        ]
        return [branch for branch in every if branch.weight != 0]


def scales(guidance: float | None, reference: float | None, audio: float | None) -> tuple[float, float]:
    """R and A of what was asked for: both in one, or each, or what they are by default."""
    if guidance is not None:
        return guidance, guidance
    return (
        Sampling.reference_scale if reference is None else reference,
        Sampling.audio_scale if audio is None else audio,
    )


def scheduler_for(sampling: Sampling, own: Any) -> Any:
    """A new scheduler with the noise schedule that the model was trained with. own: the pipeline's.

    New, because a scheduler remembers the video that it is at.
    """
    kind = type(own) if sampling.scheduler is None else _SCHEDULERS[sampling.scheduler]
    scheduler = kind.from_config(own.config)
    scheduler.set_timesteps(sampling.steps)
    return scheduler


def clip_noise(config: ModelConfig, seed: int, clip: int) -> Tensor:
    """float32 (f, C, H, W) that a clip starts from. It depends on (seed, clip) only, not on the clips before."""

    def draw(stream: int, count: int, *size: int) -> np.ndarray:
        rng = np.random.default_rng([seed, stream, count])
        return rng.standard_normal((*size, *config.latent_shape), dtype=np.float32)

    places = (clip * config.frames + np.arange(config.frames)) / config.noise_drift
    first, last = int(places[0]), int(places[-1])
    keys = np.stack([draw(_COMMON, key) for key in range(first, last + 2)])
    return mix_noise(keys, places - first, draw(_OWN, clip, config.frames), config.common_noise)
