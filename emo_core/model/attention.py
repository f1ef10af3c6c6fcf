"""Spatial attention: self-, reference- and audio-attention in one transformer block (EMO 3.2.1 - 3.2.3).

Parameter names are those of Stable Diffusion 1.5 in diffusers (`attn1`, `attn2`, `ff`, `norm1` ...), so its weights
load without a rename table; `attn_audio` and `norm_audio` are the names that EMO adds.
"""

from typing import NamedTuple, cast

from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class KeyValue(NamedTuple):
    """Projected keys and values of one attention layer, each (B, heads, T, D / heads).

    They are a value of their own because they outlive a denoising step: those of the reference are computed once per
    video, those of audio and speed once per clip.
    """

    key: Tensor
    value: Tensor


def split_heads(attention: Attention, states: Tensor) -> Tensor:
    """(B, T, D) -> (B, heads, T, D / heads)."""
    return states.unflatten(-1, (attention.heads, -1)).transpose(1, 2)


def project(attention: Attention, states: Tensor) -> KeyValue:
    """Keys and values that `attention` reads from states (B, T, D)."""
    return KeyValue(split_heads(attention, attention.to_k(states)), split_heads(attention, attention.to_v(states)))


def attend(attention: Attention, states: Tensor, source: KeyValue) -> Tensor:
    """Attention of states (B, T, D) to projected keys and values: (B, T, D)."""
    query = split_heads(attention, attention.to_q(states))
    mixed = scaled_dot_product_attention(query, source.key, source.value)
    return attention.to_out[0](mixed.transpose(1, 2).flatten(2))


def zero_output(attention: Attention) -> Attention:
    """Let a newly added attention start as a branch that adds nothing."""
    nn.init.zeros_(attention.to_out[0].weight)
    nn.init.zeros_(attention.to_out[0].bias)
    return attention


class SpatialBlock(nn.Module):
    """One transformer block over the pixels of each frame.

    with_reference: has `attn2`, whose keys and values are the ReferenceNet's features (EMO 3.2.3). In ReferenceNet
    itself there is nothing to attend to, and `norm2` alone remains: it puts the recorded features in the space
    in which the Backbone's `norm2` puts its queries (Not in the paper: that the features are normalised).
    audio_width: width of audio tokens, or None for a block without audio-attention (stage 1, ReferenceNet).
    """

    def __init__(self, width: int, heads: int, *, with_reference: bool, audio_width: int | None) -> None:
        super().__init__()
        size = {"query_dim": width, "heads": heads, "dim_head": width // heads}
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(**size)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = Attention(**size) if with_reference else None
        self.norm_audio = self.attn_audio = None
        if audio_width is not None:
            self.norm_audio = nn.LayerNorm(width)
            self.attn_audio = zero_output(Attention(cross_attention_dim=audio_width, **size))
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width, activation_fn="geglu")

    def look_at_itself(self, states: Tensor) -> Tensor:
        """Self-attention with its residual, (B, T, D): after it ReferenceNet's features are recorded."""
        normed = self.norm1(states)
        return states + attend(self.attn1, normed, project(self.attn1, normed))

    def forward(self, states: Tensor, reference: KeyValue | None = None, audio: KeyValue | None = None) -> Tensor:
        """states: (B * F, T, D). reference: of B clips, audio: of B * F frames."""
        states = self.look_at_itself(states)
        if self.attn2 is not None:
            # All frames of a clip see the same reference: they are queries side by side, and nothing is repeated.
            assert reference is not None, "reference-attention needs a reference"
            batch = reference.key.shape[0]
            query = self.norm2(states).reshape(batch, -1, states.shape[-1])
            states = states + attend(self.attn2, query, reference).reshape(states.shape)
        if self.attn_audio is not None and self.norm_audio is not None:
            assert audio is not None, "audio-attention needs audio"
            states = states + attend(self.attn_audio, self.norm_audio(states), audio)
        return states + self.ff(self.norm3(states))


class SpatialTransformer(nn.Module):
    """A spatial block between two 1x1 convolutions, as at every attention place of SD 1.5."""

    def __init__(
        self, channels: int, heads: int, groups: int, *, with_reference: bool, audio_width: int | None
    ) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList(
            [SpatialBlock(channels, heads, with_reference=with_reference, audio_width=audio_width)]
        )
        self.proj_out = nn.Conv2d(channels, channels, 1)

    @property
    def block(self) -> SpatialBlock:
        """The only transformer block (SD 1.5 has one per place; the list is there for its parameter names)."""
        return cast(SpatialBlock, self.transformer_blocks[0])

    def to_tokens(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, H * W, C), ready for the block."""
        return self.proj_in(self.norm(maps)).flatten(2).transpose(1, 2)

    def forward(self, maps: Tensor, reference: KeyValue | None = None, audio: KeyValue | None = None) -> Tensor:
        """maps: (B * F, C, H, W), returned in the same shape."""
        tokens = self.block(self.to_tokens(maps), reference, audio)
        return maps + self.proj_out(tokens.transpose(1, 2).reshape(maps.shape))
