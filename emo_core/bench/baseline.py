"""The work of one denoising step without EMO's code: diffusers' UNetMotionModel, and beside it bare attentions."""

from diffusers import UNetMotionModel
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from emo_core.model.backbone import Backbone, Conditions
from emo_core.model.config import ModelConfig
from emo_core.model.temporal import POSITIONS

Shape = tuple[int, ...]


def motion_unet(config: ModelConfig) -> UNetMotionModel:
    """SD 1.5 with AnimateDiff as diffusers has it, of the same size. Its text attention stands for audio-attention."""
    down = ["CrossAttnDownBlockMotion" if attends else "DownBlockMotion" for attends in config.attention]
    up = ["CrossAttnUpBlockMotion" if attends else "UpBlockMotion" for attends in reversed(config.attention)]
    return UNetMotionModel(
        in_channels=config.latent_channels,
        out_channels=config.latent_channels,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        block_out_channels=config.channels,
        layers_per_block=config.layers_per_block,
        norm_num_groups=config.norm_groups,
        cross_attention_dim=config.audio_token_width,
        num_attention_heads=config.heads,
        motion_max_seq_length=POSITIONS,
        motion_num_attention_heads=config.temporal_heads,
        use_motion_mid_block=True,
    )


class BareAttentions(nn.Module):
    """What EMO's step does more than UNetMotionModel's, as matrix products and nothing else.

    At each spatial place the attention to the reference; at each temporal place the attention to the speed, and the
    motion frames' part in the two self-attentions: n more frames that are projected, that ask in the first, and that
    are asked in both.
    """

    def __init__(self, backbone: Backbone, conditions: Conditions, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.temporal_heads = config.heads, config.temporal_heads
        self.frames, self.motion_frames = config.frames, config.motion_frames
        batch = len(conditions.location)
        self.reference: list[tuple[Shape, Shape]] = []
        """At each spatial place: the shape of the queries, and of what they are put to."""
        for name, _ in backbone.spatial_places():
            _, heads, tokens, width = conditions.reference[name].key.shape
            self.reference.append(((batch, config.frames * tokens, heads * width), (batch, tokens, heads * width)))
        self.temporal = [
            (batch * maps.shape[3] * maps.shape[4], maps.shape[1])
            for maps in (conditions.motion[name] for name, _ in backbone.temporal_places())
        ]
        """At each temporal place: pixels and channels."""
        widths = {shape[-1] for shape, _ in self.reference} | {width for _, width in self.temporal}
        # One matrix per width serves all: no cache is large enough to notice.
        self.products = nn.ModuleDict({str(width): nn.Linear(width, width) for width in widths})

    def forward(self, inputs: dict[Shape, Tensor]) -> None:
        """inputs: a tensor of each of `shapes`, made beforehand."""
        for queries, keys in self.reference:
            self._attend(inputs[queries], inputs[keys], self.heads)
        for pixels, width in self.temporal:
            clip, before = inputs[pixels, self.frames, width], inputs[pixels, self.motion_frames, width]
            both = inputs[pixels, self.frames + self.motion_frames, width]
            batch = self.reference[0][0][0]
            self._attend(clip.reshape(batch, -1, width), both[:batch, : self.frames], self.temporal_heads)  # the speed
            product = self.products[str(width)]
            for _ in range(3):  # into the module, and the keys and values of the second self-attention
                product(before)
            for _ in range(2):  # the keys and values of the first
                product(before)
            self._attend(before, both, self.temporal_heads)
            for _ in range(2):
                self._mix(clip, before, before, self.temporal_heads)

    @property
    def shapes(self) -> set[Shape]:
        """Of all inputs."""
        lengths = (self.frames, self.motion_frames, self.frames + self.motion_frames)
        return {shape for pair in self.reference for shape in pair} | {
            (pixels, length, width) for pixels, width in self.temporal for length in lengths
        }

    def _attend(self, states: Tensor, source: Tensor, heads: int) -> Tensor:
        """Queries and outputs are projected; keys and values are there."""
        product = self.products[str(states.shape[-1])]
        return product(self._mix(product(states), source, source, heads))

    def _mix(self, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
        query, key, value = (states.unflatten(-1, (heads, -1)).transpose(1, 2) for states in (query, key, value))
        return scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
