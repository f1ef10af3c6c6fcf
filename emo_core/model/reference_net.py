"""ReferenceNet: what the portrait and the last frames look like, at every layer (EMO 3.2.3, 3.2.4)."""

from dataclasses import dataclass

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from emo_core.model.attention import SpatialTransformer
from emo_core.model.temporal import TemporalModule
from emo_core.model.unet import UNet


@dataclass(frozen=True)
class ReferenceFeatures:
    """Features of B pictures, keyed by the name of the place in the UNet. A value: nothing is kept in the network."""

    attention: dict[str, Tensor]
    """(B, H * W, C) after self-attention, for the Backbone's reference-attention."""
    maps: dict[str, Tensor]
    """(B, C, H, W) where the Backbone has its temporal modules, for motion frames."""


class ReferenceNet(UNet):
    """The Backbone's structure without text, conditions and output layers, run once per picture and not per step.

    Not in the paper: the timestep it is given; a clean picture is at timestep 0.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int,
        channels: tuple[int, ...],
        attention: tuple[bool, ...],
        layers_per_block: int,
        heads: int,
        norm_groups: int,
    ) -> None:
        super().__init__()
        self._build(
            latent_channels=latent_channels,
            channels=channels,
            attention=attention,
            layers_per_block=layers_per_block,
            norm_groups=norm_groups,
            spatial=lambda width: SpatialTransformer(width, heads, norm_groups, with_reference=False, audio_width=None),
            temporal=None,
        )

    def forward(self, latents: Tensor) -> ReferenceFeatures:
        """latents: clean (B, C, H, W)."""
        attention: dict[str, Tensor] = {}
        maps: dict[str, Tensor] = {}

        def record_attention(name: str, layer: SpatialTransformer, states: Tensor) -> Tensor:
            tokens = layer.block.look_at_itself(layer.to_tokens(states))
            attention[name] = layer.block.norm2(tokens)
            tokens = tokens + layer.block.ff(layer.block.norm3(tokens))
            return states + layer.proj_out(tokens.transpose(1, 2).reshape(states.shape))

        def record_maps(name: str, _: TemporalModule | None, states: Tensor) -> Tensor:
            maps[name] = states
            return states

        time = self.embed_time(torch.zeros(len(latents), dtype=torch.long, device=latents.device), frames=1)
        self.walk(self.conv_in(latents), time, record_attention, record_maps)
        return ReferenceFeatures(attention, maps)
