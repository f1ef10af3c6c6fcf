"""Temporal modules: AnimateDiff's, with motion frames and speed layers (EMO 3.2.4, 3.2.5).

Parameter names are those of diffusers' MotionAdapter; `attn_speed` and `norm_speed` are the names that EMO adds.
"""

from typing import cast

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import SinusoidalPositionalEmbedding
from torch import Tensor, nn

from emo_core.model.attention import KeyValue, attend, project, zero_output

POSITIONS = 32
"""Frames that AnimateDiff's position code reaches (mm_sd_v15_v2)."""


def _passing_on(attention: Attention) -> Attention:
    """An attention that at first takes the mean of what it attends to, unchanged.

    Not in the paper: its modules come trained. With torch's own random weights a frame gets a tenth of what motion
    frames say, and hardly learns from so faint a voice until it has grown.
    """
    nn.init.eye_(attention.to_v.weight)
    nn.init.eye_(attention.to_out[0].weight)
    nn.init.zeros_(attention.to_out[0].bias)
    return attention


class TemporalBlock(nn.Module):
    """Two self-attentions over the frames of each pixel, then attention to the speed tokens."""

    def __init__(self, width: int, heads: int, speed_width: int | None) -> None:
        super().__init__()
        size = {"query_dim": width, "heads": heads, "dim_head": width // heads}
        self.pos_embed = SinusoidalPositionalEmbedding(width, max_seq_length=POSITIONS)
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = _passing_on(Attention(**size))
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = _passing_on(Attention(**size))
        self.norm_speed = self.attn_speed = None
        if speed_width is not None:
            self.norm_speed = nn.LayerNorm(width)
            self.attn_speed = zero_output(Attention(cross_attention_dim=speed_width, **size))
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width, activation_fn="geglu")

    def forward(self, states: Tensor, motion_frames: int, speed: KeyValue | None = None) -> Tensor:
        """states: (B * H * W, N + F, D), of which those of the F frames are returned. speed: of B clips, F tokens each.

        The motion frames have said all once the second self-attention has read them: nothing more is computed there.
        """
        normed = self.pos_embed(self.norm1(states))
        states = states + attend(self.attn1, normed, project(self.attn1, normed))
        normed = self.pos_embed(self.norm2(states))
        source = project(self.attn2, normed)
        states = states[:, motion_frames:] + attend(self.attn2, normed[:, motion_frames:], source)
        if self.attn_speed is not None and self.norm_speed is not None:
            assert speed is not None, "speed-attention needs speeds"
            # The paper repeats the tokens to (B * H * W, F, l); all pixels as one row of queries are the same.
            query = self.norm_speed(states).reshape(speed.key.shape[0], -1, states.shape[-1])
            states = states + attend(self.attn_speed, query, speed).reshape(states.shape)
        return states + self.ff(self.norm3(states))


class TemporalModule(nn.Module):
    """What relates the frames of a clip to each other and to the clip before, at one place of the UNet.

    The output projection starts at zero, so that a new module passes its input on unchanged. Without motion frames it
    is AnimateDiff's module. Not in the paper: the input projection starts as the identity, see `_passing_on`; and the
    motion frames' maps, which are another network's, are normalised apart from the clip's.
    """

    def __init__(self, channels: int, heads: int, groups: int, speed_width: int | None) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        nn.init.eye_(self.proj_in.weight)
        nn.init.zeros_(self.proj_in.bias)
        self.transformer_blocks = nn.ModuleList([TemporalBlock(channels, heads, speed_width)])
        self.proj_out = nn.Linear(channels, channels)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    @property
    def block(self) -> TemporalBlock:
        """The only transformer block (AnimateDiff has one per place)."""
        return cast(TemporalBlock, self.transformer_blocks[0])

    def forward(self, maps: Tensor, motion: Tensor, speed: KeyValue | None = None) -> Tensor:
        """maps: (B * F, C, H, W), returned in the same shape.

        motion: (B, C, N, H, W) features that ReferenceNet has of the frames before, at this very place; zero maps for
        the first clip; N = 0 for plain AnimateDiff. Outputs at motion positions are dropped.
        """
        batch, channels, motion_frames, height, width = motion.shape
        frames = maps.unflatten(0, (batch, -1))  # (B, F, C, H, W)
        # Every reader normalises ReferenceNet's maps first, so no loss bounds their size: in one normalisation with
        # theirs, a thousand times as large, the frames' own maps would vanish.
        each = [part for part in (motion, frames.transpose(1, 2)) if part.shape[2]]  # (B, C, N or F, H, W)
        if torch.is_grad_enabled():
            # torch (2.13, CPU) crashes in the backward of a group normalisation whose input is laid out channels last
            # and needs no gradient: as it is here at the first place, where all before it is frozen.
            each = [part.contiguous() for part in each]
        clip = torch.cat([self.norm(part) for part in each], dim=2)
        tokens = clip.permute(0, 3, 4, 2, 1).reshape(batch * height * width, -1, channels)
        tokens = self.proj_out(self.block(self.proj_in(tokens), motion_frames, speed))
        change = tokens.unflatten(0, (batch, height, width)).permute(0, 3, 4, 1, 2)
        return (frames + change).flatten(0, 1)
