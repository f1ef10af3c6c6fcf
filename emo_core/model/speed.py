"""Speed encoder: how fast the head turns, as a soft code of buckets (EMO 3.2.5)."""

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

TOP_SPEED = 2.0
"""Degrees per frame up to which the code tells speeds apart (EMO 4.5.1 assigns up to 1.9)."""


def fit_buckets(speeds: np.ndarray, buckets: int) -> tuple[list[float], list[float]]:
    """Centres and radii of the buckets for a training set's speeds (any shape, degrees per frame, NaN ignored).

    Not in the paper: centres lie half-way between an even grid over 0 - 2 and the quantiles of the data; a radius is
    the larger distance to a neighbour, so between any two centres both codes still change and the code is injective.
    """
    grid = np.linspace(0, TOP_SPEED, buckets)
    known = speeds[np.isfinite(speeds)].astype(np.float64).clip(0, TOP_SPEED)
    centres = (grid + np.quantile(known, grid / TOP_SPEED)) / 2 if len(known) else grid
    centres[0], centres[-1] = 0.0, TOP_SPEED
    gaps = np.diff(centres)
    radii = np.maximum(np.concatenate([gaps[:1], gaps]), np.concatenate([gaps, gaps[-1:]]))
    return centres.tolist(), radii.tolist()


class SpeedEncoder(ModelMixin, ConfigMixin):
    """s_i = tanh((w_f - c_i) / r_i * 3) for d buckets, a window of 2m + 1 frames, and an MLP."""

    @register_to_config
    def __init__(self, centres: list[float], radii: list[float], margin: int, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear((2 * margin + 1) * len(centres), width), nn.SiLU(), nn.Linear(width, width))

    def code(self, speeds: Tensor) -> Tensor:
        """Speeds in degrees per frame, float32 of any shape -> codes with one more axis of d buckets.

        In float32 whatever the weights are in: bfloat16 would tell only every hundredth of a degree apart.
        """
        centre, radius = (
            torch.tensor(values, device=speeds.device) for values in (self.config.centres, self.config.radii)
        )
        return torch.tanh((speeds[..., None] - centre) / radius * 3)

    def forward(self, speeds: Tensor) -> Tensor:
        """speeds: (B, F, 2m + 1) windows -> tokens (B, F, l)."""
        return self.mlp(self.code(speeds).flatten(2).to(self.dtype))
