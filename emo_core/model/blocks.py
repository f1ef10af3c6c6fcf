"""The rungs of the UNet: residual layers, and beside each its spatial and its temporal place.

The names of the parameters are diffusers': `resnets`, `attentions`, `motion_modules`, `downsamplers`, `upsamplers`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn

from emo_core.model.attention import SpatialTransformer
from emo_core.model.temporal import TemporalModule


@dataclass(frozen=True)
class Parts:
    """What the UNet puts at its places: how a residual, a spatial and a temporal layer of given channels is made."""

    resnet: Callable[[int, int], ResnetBlock2D]
    spatial: Callable[[int], SpatialTransformer]
    temporal: Callable[[int], TemporalModule] | None
    """None for a UNet without temporal modules (ReferenceNet, and the Backbone of stage 1)."""

    def temporal_list(self, channels: int, layers: int) -> nn.ModuleList | None:
        """Temporal modules of one rung."""
        return None if self.temporal is None else nn.ModuleList(self.temporal(channels) for _ in range(layers))


class Rung(nn.Module):
    """The layers of one resolution, on the way down or up. It has no forward of its own: the UNet walks its layers."""

    def __init__(self, parts: Parts, inputs: list[int], channels: int, *, attention: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(parts.resnet(entering, channels) for entering in inputs)
        self.attentions = nn.ModuleList(parts.spatial(channels) for _ in inputs) if attention else None
        self.motion_modules = parts.temporal_list(channels, len(inputs))
        self.downsamplers: nn.ModuleList | None = None
        self.upsamplers: nn.ModuleList | None = None

    def then_down(self, channels: int) -> "Rung":
        """Halve the resolution after the layers."""
        self.downsamplers = nn.ModuleList([Downsample2D(channels, use_conv=True, name="op")])
        return self

    def then_up(self, channels: int) -> "Rung":
        """Double the resolution after the layers."""
        self.upsamplers = nn.ModuleList([Upsample2D(channels, use_conv=True)])
        return self


class Middle(nn.Module):
    """The lowest resolution: residual, spatial, temporal, residual."""

    def __init__(self, parts: Parts, channels: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(parts.resnet(channels, channels) for _ in range(2))
        self.attentions = nn.ModuleList([parts.spatial(channels)])
        self.motion_modules = parts.temporal_list(channels, 1)
