"""Backbone: the UNet that denoises the frames of a clip under all conditions (EMO 3.2.1)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn
from torch.nn.functional import silu

from emo_core.model.attention import KeyValue, SpatialTransformer, project
from emo_core.model.config import Location
from emo_core.model.temporal import TemporalModule
from emo_core.model.unet import UNet


@dataclass(frozen=True)
class Conditions:
    """All that the Backbone is told about B clips besides the noisy latents. The same at every denoising step.

    Projected keys and values are keyed by the name of the place that reads them.
    """

    reference: dict[str, KeyValue]
    """Of the reference picture, (B, heads, H * W, D / heads)."""
    audio: dict[str, KeyValue]
    """Of the audio tokens, (B * F, heads, T, D / heads). Empty before stage 2."""
    motion: dict[str, Tensor]
    """ReferenceNet's maps of the frames before, (B, C, N, H, W). Empty before stage 2."""
    speed: dict[str, KeyValue]
    """Of the speed tokens, (B, heads, F, D / heads). Empty before stage 3."""
    location: Tensor
    """The Face Locator's code, (B, C, H, W) in latent resolution, with the channels of what it is added to."""


def join(each: Sequence[Conditions]) -> Conditions:
    """The conditions of several batches as those of one, always laid out alike in memory."""

    def pairs(of: list[dict[str, KeyValue]]) -> dict[str, KeyValue]:
        return {
            name: KeyValue(*(torch.cat(part) for part in zip(*(one[name] for one in of), strict=True)))
            for name in of[0]
        }

    return Conditions(
        reference=pairs([one.reference for one in each]),
        audio=pairs([one.audio for one in each]),
        motion={
            name: torch.cat([one.motion[name] for one in each]).contiguous(memory_format=torch.channels_last_3d)
            for name in each[0].motion
        },
        speed=pairs([one.speed for one in each]),
        location=torch.cat([one.location for one in each]),
    )


class Backbone(UNet):
    """audio, temporal, speed say which of the later stages' layers exist: a model grows from stage to stage."""

    @register_to_config
    def __init__(
        self,
        latent_channels: int,
        channels: tuple[int, ...],
        attention: tuple[bool, ...],
        layers_per_block: int,
        heads: int,
        norm_groups: int,
        temporal_heads: int,
        audio_token_width: int,
        speed_width: int,
        location: Location,
        audio: bool,
        temporal: bool,
        speed: bool,
    ) -> None:
        super().__init__()
        self._build(
            latent_channels=latent_channels,
            channels=channels,
            attention=attention,
            layers_per_block=layers_per_block,
            norm_groups=norm_groups,
            spatial=lambda width: SpatialTransformer(
                width, heads, norm_groups, with_reference=True, audio_width=audio_token_width if audio else None
            ),
            temporal=(lambda width: TemporalModule(width, temporal_heads, norm_groups, speed_width if speed else None))
            if temporal
            else None,
        )
        self.conv_norm_out = nn.GroupNorm(norm_groups, channels[0], eps=1e-5)
        self.conv_out = nn.Conv2d(channels[0], latent_channels, 3, padding=1)

    @apply_forward_hook
    def project_reference(self, features: dict[str, Tensor]) -> dict[str, KeyValue]:
        """Keys and values of the reference, once per video. features: `ReferenceFeatures.attention`."""
        return {name: project(layer.block.attn2, features[name]) for name, layer in self.spatial_places()}

    @apply_forward_hook
    def project_audio(self, tokens: Tensor) -> dict[str, KeyValue]:
        """Keys and values of audio tokens (B, F, T, D), once per clip."""
        tokens = tokens.flatten(0, 1)
        return {name: project(layer.block.attn_audio, tokens) for name, layer in self.spatial_places()}

    @apply_forward_hook
    def project_speed(self, tokens: Tensor) -> dict[str, KeyValue]:
        """Keys and values of speed tokens (B, F, D), once per clip."""
        return {name: project(layer.block.attn_speed, tokens) for name, layer in self.temporal_places()}

    def forward(self, latents: Tensor, timestep: Tensor, conditions: Conditions) -> Tensor:
        """latents: noisy (B, F, C, H, W); timestep: (B,). Returns the prediction in the shape of latents."""
        batch, frames = latents.shape[:2]

        def at_spatial(name: str, layer: SpatialTransformer, maps: Tensor) -> Tensor:
            return layer(maps, conditions.reference[name], conditions.audio.get(name))

        def at_temporal(name: str, layer: TemporalModule | None, maps: Tensor) -> Tensor:
            return maps if layer is None else layer(maps, conditions.motion[name], conditions.speed.get(name))

        location = conditions.location.repeat_interleave(frames, dim=0)  # EMO 3.2.5: the same for all frames
        maps = latents.flatten(0, 1)
        maps = self.conv_in(maps + location) if self.config.location == "latents" else self.conv_in(maps) + location
        maps = self.walk(maps, self.embed_time(timestep, frames), at_spatial, at_temporal)
        maps = self.conv_out(silu(self.conv_norm_out(maps)))
        return maps.unflatten(0, (batch, frames))

    def zero_motion(self, features: dict[str, Tensor], batch: int, frames: int) -> dict[str, Tensor]:
        """The motion condition of a video's first clip: zero *maps*, not the features of a black picture.

        features: ReferenceNet's maps of any picture, for the shapes.
        """
        return {
            name: torch.zeros_like(features[name][:1])[:, :, None].expand(batch, -1, frames, -1, -1)
            for name, _ in self.temporal_places()
        }
