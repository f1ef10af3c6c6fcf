"""A linear latent codec, fitted to the data: what stands in for Stable Diffusion's VAE where there are no weights."""

from typing import TypeAlias

import torch
from diffusers import AutoencoderKL
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

WHITENING = 0.5
"""0 leaves the components' variances as they are, 1 makes them equal."""


class PointDistribution:
    """The posterior of a codec without noise, with the two calls of diffusers' Gaussian one."""

    def __init__(self, latents: Tensor) -> None:
        self.latents = latents

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """The only point there is."""
        return self.latents

    def mode(self) -> Tensor:
        """The only point there is."""
        return self.latents


class LinearCodec(ModelMixin, ConfigMixin):
    """Principal components of patches, with AutoencoderKL's interface: encode(x).latent_dist, decode(z).sample.

    Not in the paper: it exists so that the whole road can be walked offline. Components are partly whitened: the first,
    a patch's brightness, varies 30 times as much as the last, and diffusion that is told of both in one unit of noise
    would spend itself on the background's brightness and leave the mouth to its last steps.
    """

    @register_to_config
    def __init__(self, patch: int, latent_channels: int, scaling_factor: float = 1.0) -> None:
        super().__init__()
        # Parameters that are never trained, and not buffers: whoever moves models looks at their parameters.
        self.mean = nn.Parameter(torch.zeros(3 * patch * patch), requires_grad=False)
        self.components = nn.Parameter(torch.zeros(latent_channels, 3 * patch * patch), requires_grad=False)
        self.gain = nn.Parameter(torch.ones(latent_channels), requires_grad=False)

    @classmethod
    def fit(cls, pictures: Tensor, patch: int, latent_channels: int) -> "LinearCodec":
        """The codec whose patches lose least of pictures (B, 3, H, W) in -1..1; scaled latents have unit variance."""
        patches = pixel_unshuffle(pictures, patch).movedim(1, -1).flatten(0, -2).double()
        mean = patches.mean(0)
        centred = patches - mean
        variances, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))  # ascending
        kept = vectors[:, -latent_channels:].flip(1)
        # An eigenvector's sign is arbitrary: fix it, so that the same pictures give the same codec everywhere.
        kept = kept * kept.gather(0, kept.abs().argmax(0, keepdim=True)).sign()
        # Flat pictures have components without any variance: they must not become infinite gains.
        kept_variances = variances[-latent_channels:].flip(0).clamp(min=1e-6 * float(variances[-1]) + 1e-12)
        gain = kept_variances ** (-WHITENING / 2)
        codec = cls(patch, latent_channels, scaling_factor=float((kept_variances * gain**2).mean().rsqrt()))
        codec.mean.copy_(mean)
        codec.components.copy_(kept.T)
        codec.gain.copy_(gain)
        return codec

    @apply_forward_hook
    def encode(self, pictures: Tensor) -> AutoencoderKLOutput:
        """pictures: (B, 3, H, W) in -1..1. Latents (B, C, H / patch, W / patch), not yet scaled."""
        patches = pixel_unshuffle(pictures, self.config.patch).movedim(1, -1)
        latents = (patches - self.mean) @ self.components.T * self.gain
        return AutoencoderKLOutput(latent_dist=PointDistribution(latents.movedim(-1, 1)))

    @apply_forward_hook
    def decode(self, latents: Tensor) -> DecoderOutput:
        """latents: (B, C, H, W), unscaled, as `encode` gives them."""
        patches = (latents.movedim(1, -1) / self.gain) @ self.components + self.mean
        return DecoderOutput(sample=pixel_shuffle(patches.movedim(-1, 1), self.config.patch))


Codec: TypeAlias = LinearCodec | AutoencoderKL


def encode_pictures(codec: Codec, pictures: Tensor) -> Tensor:
    """pictures (B, 3, H, W) in -1..1 -> latents (B, C, H, W) at the scale that diffusion works in, for any codec."""
    return codec.encode(pictures).latent_dist.mode() * codec.config.scaling_factor


def decode_latents(codec: Codec, latents: Tensor) -> Tensor:
    """The inverse of `encode_pictures`, clipped to -1..1."""
    return codec.decode(latents / codec.config.scaling_factor).sample.clamp(-1, 1)
