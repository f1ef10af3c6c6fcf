"""EMOPipeline: the chain of clips, each denoised under the portrait, the voice and the clip before (EMO 3, 4.1).

Legend: F frames of the whole video, f frames of a clip, n motion frames, L D audio features, C H W latent.
"""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from torch import Tensor, nn

from emo_core.checkpoint import Checkpoint, load, save
from emo_core.diffusion import mix_noise
from emo_core.model.audio import AudioProjection
from emo_core.model.backbone import Backbone, Conditions
from emo_core.model.codec import decode_latents, encode_pictures
from emo_core.model.emo import masked, stack_motion
from emo_core.model.face_locator import FaceLocator
from emo_core.model.reference_net import ReferenceNet
from emo_core.model.speed import SpeedEncoder
from emo_data.dataset.window import surroundings
from emo_data.errors import UserError

_COMMON, _OWN = 0, 1
"""Streams of random numbers."""

OnClip = Callable[[int, int], None]
"""(clips done, clips in all)."""


@dataclass(frozen=True)
class Portrait:
    """Who speaks, and where the face may go."""

    picture: Tensor
    """(3, pixels, pixels) in -1..1."""
    mask: Tensor
    """(1, pixels, pixels), 1 where the face may be."""


@dataclass(frozen=True)
class Drive:
    """What moves the F frames of a video."""

    audio: np.ndarray
    """(F, L, D) features of the model's own audio encoder."""
    speed: np.ndarray
    """(F,) degrees per frame."""


class Branch(NamedTuple):
    """One run of the Backbone per denoising step, and its part in the guided prediction."""

    reference: float
    """1 where it is shown the reference, else 0."""
    audio: float
    """1 where it hears the voice, else 0."""
    weight: float


@dataclass(frozen=True)
class Sampling:
    """How to sample: `steps` of DDIM, and two scales of guidance (Not in the paper).

    Of the predictions p(reference, audio) the guided one is p(0, 0) + R (p(1, 0) - p(0, 0)) + A (p(1, 1) - p(1, 0)).
    """

    steps: int = 40
    reference_scale: float = 2.0
    """R: how strongly the portrait is followed."""
    audio_scale: float = 2.0
    """A: how strongly the voice is followed."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.reference_scale) and math.isfinite(self.audio_scale)):
            raise UserError(f"guidance {self.reference_scale}, {self.audio_scale}: give finite numbers, such as 2")

    @property
    def branches(self) -> list[Branch]:
        """Those whose weight is not zero: one where both scales are 1, two where they are equal, three at most."""
        reference, audio = self.reference_scale, self.audio_scale
        every = [Branch(1, 1, audio), Branch(1, 0, reference - audio), Branch(0, 0, 1 - reference)]
        return [branch for branch in every if branch.weight != 0]


class EMOPipeline(DiffusionPipeline):
    """A diffusers pipeline of EMO's parts; `from_pretrained` is as strict as `emo_core.checkpoint.load`."""

    _optional_components = ["audio_projection", "speed_encoder", "audio_encoder"]  # noqa: RUF012 (diffusers' own name)
    checkpoint: Checkpoint

    def __init__(
        self,
        backbone: Backbone,
        reference_net: ReferenceNet,
        face_locator: FaceLocator,
        vae: nn.Module,
        scheduler: DDIMScheduler,
        audio_projection: AudioProjection | None = None,
        speed_encoder: SpeedEncoder | None = None,
        audio_encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            backbone=backbone,
            reference_net=reference_net,
            face_locator=face_locator,
            vae=vae,
            scheduler=scheduler,
            audio_projection=audio_projection,
            speed_encoder=speed_encoder,
            audio_encoder=audio_encoder,
        )

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Self:
        """The pipeline around a model that is already in memory."""
        model, encoder = checkpoint.model, checkpoint.audio_encoder
        pipeline = cls(
            backbone=model.backbone,
            reference_net=model.reference_net,
            face_locator=model.face_locator,
            audio_projection=model.audio_projection,
            speed_encoder=model.speed_encoder,
            vae=checkpoint.codec,
            scheduler=checkpoint.scheduler,
            audio_encoder=None if encoder is None else encoder.model,
        )
        pipeline.checkpoint = checkpoint
        return pipeline

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike, *, torch_dtype: torch.dtype | None = None) -> Self:
        """Load a model folder, all or nothing. Raises what `emo_core.checkpoint.load` raises."""
        checkpoint = load(Path(folder))
        checkpoint.model.eval().channels_last()
        pipeline = cls.of(checkpoint)
        return pipeline if torch_dtype is None else pipeline.to(torch_dtype)

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write the model folder, all or nothing."""
        save(self.checkpoint, Path(folder))

    def __call__(
        self, portrait: Portrait, drive: Drive, sampling: Sampling, on_clip: OnClip | None = None
    ) -> np.ndarray:
        """The whole video, uint8 (F, pixels, pixels, 3). `stream` gives the same in constant memory."""
        return np.concatenate(list(self.stream(portrait, drive, sampling, on_clip)))

    @torch.no_grad()
    def stream(
        self, portrait: Portrait, drive: Drive, sampling: Sampling, on_clip: OnClip | None = None
    ) -> Iterator[np.ndarray]:
        """The video clip by clip, each uint8 (up to f, pixels, pixels, 3): exactly F frames in all.

        The reference goes through ReferenceNet once per video, the motion frames once per clip (EMO 3.2.3, 3.2.4). From
        clip to clip latents are handed over, for encoding pixels again would shift their colour at every join.
        """
        config, model = self.checkpoint.card.config, self.checkpoint.model
        told = torch.tensor(sampling.branches).to(self._execution_device, self.dtype)  # (branches, 3)
        branches = len(told)
        seen = model.reference_net(encode_pictures(self.vae, portrait.picture[None].to(told)))
        reference = model.backbone.project_reference(
            masked({name: value.expand(branches, -1, -1) for name, value in seen.attention.items()}, told[:, 0])
        )
        mask = portrait.mask.to(told).expand(branches, -1, -1, -1)
        total, frames, before = len(drive.speed), config.frames, config.motion_frames
        starts = range(0, total, frames)
        latents = None
        for clip, start in enumerate(starts):
            if latents is None:
                motion = model.backbone.zero_motion(seen.maps, branches, before)
            else:
                last = stack_motion(model.reference_net(latents[0, -before:]).maps, 1)
                motion = {name: value.expand(branches, -1, -1, -1, -1) for name, value in last.items()}
            audio, speed = (
                torch.from_numpy(surroundings(values, start, frames, config.audio_margin)).to(told)[None]
                for values in (drive.audio, drive.speed)
            )
            conditions = model.conditions(
                reference=reference,
                motion=motion,
                audio=audio * told[:, 1].view(-1, 1, 1, 1, 1),
                speed=speed.expand(branches, -1, -1),
                mask=mask,
            )
            latents = self._denoise(conditions, sampling, clip)
            yield _to_pixels(decode_latents(self.vae, latents[0]))[: total - start]
            if on_clip is not None:
                on_clip(clip + 1, len(starts))

    def _denoise(self, conditions: Conditions, sampling: Sampling, clip: int) -> Tensor:
        """Latents (1, f, C, H, W) of one clip. Its noise depends on (seed, clip) only, not on the clips before."""
        config = self.checkpoint.card.config
        side = config.size // config.codec_downscale
        shape = (config.latent_channels, side, side)

        def draw(stream: int, count: int, *size: int) -> np.ndarray:
            rng = np.random.default_rng([sampling.seed, stream, count])
            return rng.standard_normal((*size, *shape), dtype=np.float32)

        places = (clip * config.frames + np.arange(config.frames)) / config.noise_drift
        first, last = int(places[0]), int(places[-1])
        keys = np.stack([draw(_COMMON, key) for key in range(first, last + 2)])
        own = draw(_OWN, clip, config.frames)
        latents = mix_noise(keys, places - first, own, config.common_noise)[None].to(conditions.location)
        scheduler = DDIMScheduler.from_config(self.scheduler.config)  # a copy: `set_timesteps` writes into it
        scheduler.set_timesteps(sampling.steps, device=latents.device)
        weights = torch.tensor([branch.weight for branch in sampling.branches]).to(latents)
        for timestep in scheduler.timesteps:
            copies = latents.expand(len(weights), -1, -1, -1, -1)
            each = self.backbone(copies, timestep.expand(len(weights)), conditions)
            prediction = torch.einsum("b,bfchw->fchw", weights, each)[None]
            latents = scheduler.step(prediction, timestep, latents).prev_sample
        return latents


def _to_pixels(pictures: Tensor) -> np.ndarray:
    """(f, 3, pixels, pixels) in -1..1 -> uint8 (f, pixels, pixels, 3)."""
    return ((pictures.float() + 1) * 127.5).round().to(torch.uint8).movedim(1, -1).cpu().numpy()
