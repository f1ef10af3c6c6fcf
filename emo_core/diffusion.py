"""The noise schedule that training and sampling share: one scheduler object, saved with the model (EMO 3.1).

Legend: B samples. SNR = alpha_bar / (1 - alpha_bar), the signal-to-noise ratio of a timestep.
"""

from typing import Literal

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor

Prediction = Literal["epsilon", "v_prediction", "sample"]
"""What the Backbone predicts: the noise (SD 1.5), the velocity, or the clean latents."""


def noise_schedule(prediction: Prediction) -> DDIMScheduler:
    """The betas of Stable Diffusion 1.5, and its timesteps where the noise is predicted.

    Not in the paper: for other predictions the betas are rescaled to zero terminal SNR and sampling starts at the last
    timestep, so that sampling starts from what training ended with: pure noise.
    """
    if prediction == "epsilon":
        special = {"set_alpha_to_one": False, "steps_offset": 1, "timestep_spacing": "leading"}
    else:
        special = {"set_alpha_to_one": True, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        prediction_type=prediction,
        **special,
    )


def mix_noise(keys: np.ndarray, places: np.ndarray, own: np.ndarray, share: float) -> Tensor:
    """Noise of unit variance for F neighbouring frames, (..., F, C, H, W).

    A share of its variance is a path through the keys (..., K, C, H, W), on which frame f is at places (..., F), in
    keys; the rest is each frame's own (..., F, C, H, W). keys, own: float32 standard normal.

    Not in the paper. A network that has learnt pictures gives like noise like pictures. So frames that have noise in
    common hold together from the start, and temporal modules need to learn only what moves; and where that noise
    drifts, so does the head.
    """
    before = np.floor(places).astype(int)
    angle = ((places - before) * (np.pi / 2)).astype(np.float32)[..., None, None, None]
    start, end = (np.take_along_axis(keys, (before + i)[..., None, None, None], axis=-4) for i in (0, 1))
    common = np.cos(angle) * start + np.sin(angle) * end  # a quarter of a circle from key to key: unit variance on it
    return torch.from_numpy(np.sqrt(np.float32(share)) * common + np.sqrt(np.float32(1 - share)) * own)


def timesteps_at(scheduler: DDIMScheduler, shares: Tensor) -> Tensor:
    """Timesteps (B,) at shares (B,) in 0-1 of the schedule."""
    steps = scheduler.config.num_train_timesteps
    return (shares * steps).long().clamp(max=steps - 1)


def diffusion_target(scheduler: DDIMScheduler, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
    """What the model must predict for latents and noise (B, ...) at timestep (B,)."""
    if scheduler.config.prediction_type == "epsilon":
        return noise
    if scheduler.config.prediction_type == "sample":
        return latents
    return scheduler.get_velocity(latents, noise, timestep)


def loss_weight(scheduler: DDIMScheduler, timestep: Tensor, min_snr: float) -> Tensor:
    """Weight (B,) of each sample's error, so that an error of the clean latents counts min(SNR + 1, min_snr).

    Not in the paper. It is min-SNR weighting for the velocity's loss, where SNR + 1 stands for SNR: the weight at zero
    SNR, where every video starts, is then 1 and not 0.
    """
    alpha = scheduler.alphas_cumprod.to(timestep.device)[timestep]
    snr = alpha / (1 - alpha)
    weight = (snr + 1).clamp(max=min_snr)
    # An error e of the clean latents is an error e * sqrt(SNR) of the noise and e * sqrt(SNR + 1) of the velocity.
    return weight / {"sample": 1, "epsilon": snr, "v_prediction": snr + 1}[scheduler.config.prediction_type]


def diffusion_losses(
    scheduler: DDIMScheduler,
    prediction: Tensor,
    target: Tensor,
    timestep: Tensor,
    min_snr: float | None,
    weight: Tensor | float = 1.0,
) -> Tensor:
    """Each sample's own mean squared error (B,), weighted by its own timestep. A batch's loss is their mean.

    prediction, target: (B, ...). min_snr: see `loss_weight`; None for equal weights, as in the paper. weight: of the
    squared error, place by place.
    """
    each = ((prediction - target).square() * weight).flatten(1).mean(1)
    return each if min_snr is None else each * loss_weight(scheduler, timestep, min_snr)
