"""Face Locator: the region in which the face may move (EMO 3.2.5)."""

from itertools import pairwise

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn.functional import silu


class FaceLocator(ModelMixin, ConfigMixin):
    """Light convolutions from a mask in pixels to a code that is added to the noisy latents, or to their features.

    channels: one entry per resolution; each after the first halves it, so their number fixes the codec's downscale.
    The last layer starts at zero: a new locator says nothing.
    """

    @register_to_config
    def __init__(self, channels: tuple[int, ...], out_channels: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(1, channels[0], 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Conv2d(entering, leaving, 3, padding=1, stride=2) for entering, leaving in pairwise(channels)
        )
        self.conv_out = nn.Conv2d(channels[-1], out_channels, 3, padding=1)
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, mask: Tensor) -> Tensor:
        """mask: (B, 1, pixels, pixels), 1 where the face may be. Returns (B, C, H, W) in latent resolution."""
        code = silu(self.conv_in(mask))
        for block in self.blocks:
            code = silu(block(code))
        return self.conv_out(code)
