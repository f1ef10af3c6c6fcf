"""All trained parts of EMO together: how they are built, how they grow, how they turn inputs into conditions."""

from collections.abc import Mapping
from typing import Self

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from emo_core.model.attention import KeyValue
from emo_core.model.audio import AudioProjection
from emo_core.model.backbone import Backbone
from emo_core.model.config import ModelConfig
from emo_core.model.face_locator import FaceLocator
from emo_core.model.reference_net import ReferenceNet
from emo_core.model.speed import SpeedEncoder

NEW_LAYERS = {2: ("motion_modules.", "attn_audio.", "norm_audio."), 3: ("attn_speed.", "norm_speed.")}
"""What a stage adds to the Backbone, by a part of the parameter's name: it may be missing from the stage before."""


class EMO(nn.Module):
    """The trained parts. Audio projection exists from stage 2 on, the speed encoder from stage 3 on."""

    def __init__(
        self,
        backbone: Backbone,
        reference_net: ReferenceNet,
        face_locator: FaceLocator,
        audio_projection: AudioProjection | None = None,
        speed_encoder: SpeedEncoder | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.reference_net = reference_net
        self.face_locator = face_locator
        self.audio_projection = audio_projection
        self.speed_encoder = speed_encoder

    def parts(self) -> dict[str, ModelMixin]:
        """The parts that exist, by the name of their folder in a checkpoint."""
        return {name: part for name, part in self.named_children() if isinstance(part, ModelMixin)}

    def channels_last(self) -> Self:
        """Lay the convolutions' weights out in memory as they compute fastest; no value changes."""
        return self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def hear(self, audio: Tensor | None) -> dict[str, KeyValue]:
        """The audio condition of windows (B, F, 2m + 1, L, D), once per clip. Empty before stage 2."""
        if self.audio_projection is None or audio is None:
            return {}
        return self.backbone.project_audio(self.audio_projection(audio))

    def pace(self, speed: Tensor | None) -> dict[str, KeyValue]:
        """The speed condition of windows (B, F, 2m + 1) in degrees per frame, once per clip. Empty before stage 3."""
        if self.speed_encoder is None or speed is None:
            return {}
        return self.backbone.project_speed(self.speed_encoder(speed))


def build(config: ModelConfig, stage: int, speed_buckets: tuple[list[float], list[float]] | None = None) -> EMO:
    """A new EMO as it is in `stage` (1, 2 or 3), with random weights. speed_buckets: centres and radii, for stage 3."""
    trunk = {
        "latent_channels": config.latent_channels,
        "channels": config.channels,
        "attention": config.attention,
        "layers_per_block": config.layers_per_block,
        "heads": config.heads,
        "norm_groups": config.norm_groups,
    }
    audio = speed = None
    if stage >= 2:
        audio = AudioProjection(
            layers=config.audio_layers,
            width=config.audio_width,
            margin=config.audio_margin,
            hidden=config.audio_hidden,
            tokens=config.audio_tokens,
            token_width=config.audio_token_width,
        )
    if stage >= 3:
        if speed_buckets is None:
            raise ValueError("stage 3 needs speed buckets")
        centres, radii = speed_buckets
        speed = SpeedEncoder(centres=centres, radii=radii, margin=config.audio_margin, width=config.speed_width)
    backbone = Backbone(
        **trunk,
        temporal_heads=config.temporal_heads,
        audio_token_width=config.audio_token_width,
        speed_width=config.speed_width,
        location=config.location,
        audio=stage >= 2,
        temporal=stage >= 2,
        speed=stage >= 3,
    )
    locator = FaceLocator(channels=config.locator_channels, out_channels=config.location_channels)
    return EMO(backbone, ReferenceNet(**trunk), locator, audio, speed)


def grow(
    earlier: EMO, config: ModelConfig, stage: int, speed_buckets: tuple[list[float], list[float]] | None = None
) -> EMO:
    """The EMO of `stage`, with every weight of the stage before and new layers where the stage adds them.

    Raises ValueError where a weight is missing that the stage does not add, or one is left over.
    """
    grown = build(config, stage, speed_buckets)
    before = earlier.parts()
    for name, part in grown.parts().items():
        if name in before:
            new = NEW_LAYERS.get(stage, ()) if name == "backbone" else ()
            part.load_state_dict(_fill(name, part.state_dict(), before[name].state_dict(), new))
    return grown


def _fill(
    name: str, wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], may_be_new: tuple[str, ...]
) -> dict[str, Tensor]:
    """`wanted` with the values of `given`, where only names that contain one of `may_be_new` may keep their own."""
    missing = [key for key in wanted if key not in given and not any(new in key for new in may_be_new)]
    unexpected = [key for key in given if key not in wanted]
    if missing or unexpected:
        raise ValueError(f"{name} does not continue the stage before: missing {missing}, unexpected {unexpected}")
    return {**wanted, **given}


def masked(features: dict[str, Tensor], keep: Tensor) -> dict[str, Tensor]:
    """Features (B, ...) by place, zero in the samples where keep (B,) is 0: how a condition is dropped."""
    return {name: value * keep.view(-1, *[1] * (value.dim() - 1)) for name, value in features.items()}


def stack_motion(maps: dict[str, Tensor], batch: int) -> dict[str, Tensor]:
    """ReferenceNet's maps (B * N, C, H, W) of the motion frames of B clips -> (B, C, N, H, W)."""
    return {name: value.unflatten(0, (batch, -1)).transpose(1, 2) for name, value in maps.items()}
