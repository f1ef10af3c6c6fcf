"""Audio projection: from the features around a frame to the tokens that audio-attention reads (EMO 3.2.2)."""

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn


class AudioProjection(ModelMixin, ConfigMixin):
    """A small MLP over the window A(f-m) ... A(f+m) of concatenated hidden states."""

    @register_to_config
    def __init__(self, layers: int, width: int, margin: int, hidden: int, tokens: int, token_width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear((2 * margin + 1) * layers * width, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, tokens * token_width),
        )
        self.norm = nn.LayerNorm(token_width)

    def forward(self, windows: Tensor) -> Tensor:
        """windows: (B, F, 2m + 1, L, D) -> tokens (B, F, T, token width)."""
        tokens = self.mlp(windows.flatten(2))
        return self.norm(tokens.unflatten(-1, (self.config.tokens, self.config.token_width)))
