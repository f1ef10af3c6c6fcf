"""How a clip is sampled: guidance, steps, and the noise that it starts from."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
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


@dataclass(frozen=True)
class Sampling:
    """How to sample: `steps` of DDIM, and two scales of guidance (Not in the paper).

    Of the predictions p(sees, hears) the guided one is p(0, 0) + R (p(1, 0) - p(0, 0)) + A (p(1, 1) - p(1, 0)).
    """

    steps: int = 40
    reference_scale: float = 2.0
    """R: how strongly the portrait is followed."""
    audio_scale: float = 2.0
    """A: how strongly the voice is followed."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.reference_scale) and math.isfinite(self.audio_scale)):
            raise UserError(f"guidance {self.reference_scale}, {self.audio_scale}: give finite numbers, such as 2")

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


def clip_noise(config: ModelConfig, seed: int, clip: int) -> Tensor:
    """float32 (f, C, H, W) that a clip starts from. It depends on (seed, clip) only, not on the clips before."""

    def draw(stream: int, count: int, *size: int) -> np.ndarray:
        rng = np.random.default_rng([seed, stream, count])
        return rng.standard_normal((*size, *config.latent_shape), dtype=np.float32)

    places = (clip * config.frames + np.arange(config.frames)) / config.noise_drift
    first, last = int(places[0]), int(places[-1])
    keys = np.stack([draw(_COMMON, key) for key in range(first, last + 2)])
    return mix_noise(keys, places - first, draw(_OWN, clip, config.frames), config.common_noise)
