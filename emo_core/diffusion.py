"""The noise schedule that training and sampling share: one scheduler object, saved with the model.

Legend: B clips, F frames, C H W latent.
"""

from diffusers import DDIMScheduler
from torch import Tensor


def noise_schedule(prediction: str) -> DDIMScheduler:
    """The schedule of Stable Diffusion 1.5 for a model that predicts "epsilon" or "v_prediction".

    Not in the paper: for v-prediction the betas are rescaled to zero terminal SNR and sampling starts at the last
    step, so that sampling starts from what training ended with: pure noise.
    """
    velocity = prediction == "v_prediction"
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=0 if velocity else 1,
        prediction_type=prediction,
        rescale_betas_zero_snr=velocity,
        timestep_spacing="trailing" if velocity else "leading",
    )


def timesteps_at(scheduler: DDIMScheduler, shares: Tensor) -> Tensor:
    """Timesteps (B,) at shares (B,) in 0-1 of the schedule."""
    return (shares * scheduler.config.num_train_timesteps).long()


def diffusion_target(scheduler: DDIMScheduler, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
    """What the model must predict for latents and noise (B, ...) at timestep (B,)."""
    if scheduler.config.prediction_type == "epsilon":
        return noise
    return scheduler.get_velocity(latents, noise, timestep)


def signal_to_noise(scheduler: DDIMScheduler, timestep: Tensor) -> Tensor:
    """SNR (B,) = alpha_bar / (1 - alpha_bar) at timestep (B,)."""
    alpha = scheduler.alphas_cumprod.to(timestep.device)[timestep]
    return alpha / (1 - alpha)


def diffusion_loss(
    scheduler: DDIMScheduler, prediction: Tensor, target: Tensor, timestep: Tensor, min_snr: float | None
) -> Tensor:
    """Mean over the batch of each sample's own mean squared error, weighted by its own timestep.

    prediction, target: (B, ...). min_snr: the gamma of min-SNR weighting, or None for equal weights (Not in the paper).
    """
    each = (prediction - target).square().flatten(1).mean(1)  # one number per sample, before any weight
    if min_snr is None:
        return each.mean()
    snr = signal_to_noise(scheduler, timestep)
    weight = snr.clamp(max=min_snr)
    weight = weight / (snr + 1) if scheduler.config.prediction_type == "v_prediction" else weight / snr
    return (each * weight).mean()
