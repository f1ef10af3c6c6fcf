"""Stable Diffusion 1.5's UNet without text: what Backbone and ReferenceNet have in common (EMO 3.2.1, 3.2.3)."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from emo_core.model.attention import SpatialTransformer
from emo_core.model.blocks import Middle, Parts, Rung
from emo_core.model.temporal import TemporalModule

SpatialVisit = Callable[[str, SpatialTransformer, Tensor], Tensor]
"""(name, layer, maps) -> maps: what happens at a spatial place."""
TemporalVisit = Callable[[str, TemporalModule | None, Tensor], Tensor]
"""(name, layer, maps) -> maps: what happens at a temporal place; the layer is None where the UNet has none."""


class UNet(ModelMixin, ConfigMixin):
    """Down, middle and up again, with one place for spatial and one for temporal work after every residual layer.

    What is done at the places is handed to `walk` by the two subclasses: the Backbone reads conditions there,
    ReferenceNet records features there. Places are named by their path, such as "down_blocks.0.attentions.1".
    """

    _supports_gradient_checkpointing = True

    def __init__(self) -> None:
        super().__init__()
        self.gradient_checkpointing = False

    def _build(
        self,
        *,
        latent_channels: int,
        channels: tuple[int, ...],
        attention: tuple[bool, ...],
        layers_per_block: int,
        norm_groups: int,
        spatial: Callable[[int], SpatialTransformer],
        temporal: Callable[[int], TemporalModule] | None,
    ) -> None:
        time_width = channels[0] * 4
        parts = Parts(
            resnet=lambda entering, leaving: ResnetBlock2D(
                in_channels=entering, out_channels=leaving, temb_channels=time_width, eps=1e-5, groups=norm_groups
            ),
            spatial=spatial,
            temporal=temporal,
        )
        self.conv_in = nn.Conv2d(latent_channels, channels[0], 3, padding=1)
        self.time_proj = Timesteps(channels[0], flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(channels[0], time_width)

        skips = [channels[0]]
        self.down_blocks = nn.ModuleList()
        last = len(channels) - 1
        for level, width in enumerate(channels):
            inputs = [skips[-1]] + [width] * (layers_per_block - 1)
            rung = Rung(parts, inputs, width, attention=attention[level])
            skips += [width] * layers_per_block
            if level < last:
                rung.then_down(width)
                skips.append(width)
            self.down_blocks.append(rung)
        self.mid_block = Middle(parts, channels[-1])
        self.up_blocks = nn.ModuleList()
        below = channels[-1]
        for level in range(last, -1, -1):
            width = channels[level]
            inputs = []
            for _ in range(layers_per_block + 1):
                inputs.append(below + skips.pop())
                below = width
            rung = Rung(parts, inputs, width, attention=attention[level])
            self.up_blocks.append(rung.then_up(width) if level > 0 else rung)

    def spatial_places(self) -> Iterator[tuple[str, SpatialTransformer]]:
        """Every spatial place by name."""
        return ((name, layer) for name, layer in self.named_modules() if isinstance(layer, SpatialTransformer))

    def temporal_places(self) -> Iterator[tuple[str, TemporalModule]]:
        """Every temporal module by name."""
        return ((name, layer) for name, layer in self.named_modules() if isinstance(layer, TemporalModule))

    def embed_time(self, timestep: Tensor, frames: int) -> Tensor:
        """timestep (B,) -> embedding (B * F, D), the same for all frames of a clip."""
        code = self.time_proj(timestep).to(self.dtype)
        return self.time_embedding(code).repeat_interleave(frames, dim=0)

    def walk(self, maps: Tensor, time: Tensor, at_spatial: SpatialVisit, at_temporal: TemporalVisit) -> Tensor:
        """Carry maps (B * F, C, H, W), already past `conv_in`, through the UNet."""

        def layer(path: str, index: int, block: Rung | Middle, maps: Tensor) -> Tensor:
            maps = block.resnets[index](maps, time)
            if block.attentions is not None:
                spatial = cast(SpatialTransformer, block.attentions[index])
                maps = at_spatial(f"{path}.attentions.{index}", spatial, maps)
            temporal = None if block.motion_modules is None else cast(TemporalModule, block.motion_modules[index])
            return at_temporal(f"{path}.motion_modules.{index}", temporal, maps)

        if self.gradient_checkpointing and torch.is_grad_enabled():
            layer = partial(checkpoint, layer, use_reentrant=False)

        skips = [maps]
        for level, rung in enumerate(cast(list[Rung], self.down_blocks)):
            for index in range(len(rung.resnets)):
                maps = layer(f"down_blocks.{level}", index, rung, maps)
                skips.append(maps)
            if rung.downsamplers is not None:
                maps = rung.downsamplers[0](maps)
                skips.append(maps)
        maps = layer("mid_block", 0, self.mid_block, maps)
        maps = self.mid_block.resnets[1](maps, time)
        for level, rung in enumerate(cast(list[Rung], self.up_blocks)):
            for index in range(len(rung.resnets)):
                maps = layer(f"up_blocks.{level}", index, rung, torch.cat([maps, skips.pop()], dim=1))
            if rung.upsamplers is not None:
                maps = rung.upsamplers[0](maps)
        return maps
