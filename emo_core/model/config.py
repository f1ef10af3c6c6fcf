"""The two presets. `tiny()` differs from `sd15()` in numbers only."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Location = Literal["latents", "features"]
"""The noisy latents, as in the paper (EMO 3.2.5), or the features after the Backbone's first convolution, as in
several open projects."""


class ModelConfig(BaseModel):
    """Every number that shapes an EMO model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int = Field(description="pixels per side of the picture")
    latent_channels: int
    codec_downscale: int = Field(description="pixels per latent pixel and side")
    channels: tuple[int, ...] = Field(description="UNet channels per resolution, finest first")
    attention: tuple[bool, ...] = Field(description="whether a resolution has spatial attention")
    layers_per_block: int = 2
    heads: int
    norm_groups: int
    audio_layers: int = Field(description="L hidden states of the audio encoder")
    audio_width: int = Field(description="width of one hidden state")
    audio_margin: int = Field(default=2, description="m: the window A(f-m) ... A(f+m), EMO 3.2.2")
    audio_tokens: int = 32
    audio_token_width: int
    audio_hidden: int
    frames: int = Field(default=12, description="f generated frames per clip, EMO 4.1")
    motion_frames: int = Field(default=4, gt=0, description="n frames of the clip before, EMO 4.1")
    temporal_heads: int
    locator_channels: tuple[int, ...]
    location: Location = Field(default="latents", description="what the Face Locator's code is added to")
    speed_buckets: int = Field(default=9, description="d, EMO 3.2.5")
    speed_width: int = Field(description="l, width of the speed embedding")
    prediction: Literal["epsilon", "v_prediction", "sample"] = Field(
        description="what the Backbone predicts: the noise, the velocity, or the clean latents"
    )
    common_noise: float = Field(default=0.0, ge=0, lt=1, description="share of the noise that frames have in common")
    noise_drift: int = Field(default=40, gt=0, description="frames in which the common noise becomes another")

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one frame's latents."""
        side = self.size // self.codec_downscale
        return self.latent_channels, side, side

    @property
    def location_channels(self) -> int:
        """Of the Face Locator's code."""
        return self.latent_channels if self.location == "latents" else self.channels[0]


Preset = Literal["tiny", "sd15"]


def preset_config(preset: Preset, audio_layers: int, audio_width: int) -> ModelConfig:
    """A preset for what the dataset's audio encoder gives."""
    return {"tiny": tiny, "sd15": sd15}[preset](audio_layers, audio_width)


def sd15(audio_layers: int = 12, audio_width: int = 768) -> ModelConfig:
    """The paper's model at the paper's size: SD 1.5 with AnimateDiff's temporal modules, 512 x 512."""
    return ModelConfig(
        size=512,
        latent_channels=4,
        codec_downscale=8,
        channels=(320, 640, 1280, 1280),
        attention=(True, True, True, False),
        heads=8,
        norm_groups=32,
        audio_layers=audio_layers,
        audio_width=audio_width,
        audio_token_width=768,
        audio_hidden=512,
        temporal_heads=8,
        locator_channels=(16, 32, 96, 256),
        speed_width=64,
        prediction="epsilon",
    )


def tiny(audio_layers: int = 2, audio_width: int = 64) -> ModelConfig:
    """The same model for a laptop's CPU: few pixels, random weights, a linear latent codec.

    It predicts the clean latents (Not in the paper): a network with fewer channels than a patch has cannot carry the
    noise of all its latent channels from input to output, which the other predictions ask of it.

    audio_layers, audio_width: what the dataset's audio encoder gives.
    """
    return ModelConfig(
        size=80,
        latent_channels=24,
        codec_downscale=8,
        channels=(48, 96),
        attention=(True, True),
        layers_per_block=1,
        heads=2,
        norm_groups=8,
        audio_layers=audio_layers,
        audio_width=audio_width,
        audio_tokens=4,
        audio_token_width=64,
        audio_hidden=128,
        temporal_heads=2,
        locator_channels=(8, 8, 16, 16),
        speed_width=32,
        prediction="sample",
        common_noise=0.97,
    )
