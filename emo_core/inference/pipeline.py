"""EMOPipeline: the chain of clips, each denoised under the portrait, the voice and the clip before (EMO 3, 4.1).

Legend: F frames of the whole video, f frames of a clip, n motion frames, L D audio features, C H W latent.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from torch import Tensor, nn

from emo_core.checkpoint import Checkpoint, load, save
from emo_core.inference.sampling import UNGUIDED, Branch, Sampling, clip_noise, scheduler_for
from emo_core.lanes import Lanes, lanes, side_by_side
from emo_core.model.attention import KeyValue
from emo_core.model.audio import AudioProjection
from emo_core.model.backbone import Backbone, Conditions, join
from emo_core.model.codec import decode_latents, encode_pictures
from emo_core.model.emo import stack_motion
from emo_core.model.face_locator import FaceLocator
from emo_core.model.reference_net import ReferenceNet
from emo_core.model.speed import SpeedEncoder
from emo_data.dataset.window import surroundings
from emo_data.features.audio import Heard

OnStep = Callable[["EMOPipeline", int, Tensor, dict[str, Tensor]], dict[str, Tensor]]
"""diffusers' `callback_on_step_end`: (pipeline, steps done before this one, timestep, {"latents": ...}) -> the same
dictionary, in which the latents may be others. What it raises ends the generation."""


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

    audio: np.ndarray | Heard
    """(F, L, D) features of the model's own audio encoder."""
    speed: np.ndarray
    """(F,) degrees per frame."""


@dataclass
class Talk:
    """A video in the making: all that is known from clip to clip. The pipeline itself remembers nothing."""

    drive: Drive
    sampling: Sampling
    clips: int
    """How many there will be; the last may show fewer than f frames."""
    reference: dict[str, KeyValue]
    """Of the portrait, of a batch of one."""
    silence: dict[str, KeyValue]
    """What a branch hears that does not hear the voice."""
    location: Tensor
    """The Face Locator's code (1, C, H, W)."""
    motion: dict[str, Tensor]
    """ReferenceNet's maps (1, C, n, H, W) of the last frames, by place: zero before the first clip, none in stage 1."""
    done: int = 0
    """Clips that are finished."""
    last: Tensor | None = None
    """Latents (f, C, H, W) of the last of them. With the seed, that is all that one clip leaves to the next."""


class EMOPipeline(DiffusionPipeline):
    """A diffusers pipeline of EMO's parts; `from_pretrained` is as strict as `emo_core.checkpoint.load`.

    It follows diffusers where a user would look for it: `.to()`, `torch_dtype`, `variant`, `callback_on_step_end`,
    `enable_model_cpu_offload()` or `backbone.compile()`, `vae.enable_slicing()`. Latents are float32 between the steps,
    whatever the parts compute in.
    """

    _optional_components = ["audio_projection", "speed_encoder", "audio_encoder"]  # noqa: RUF012 (diffusers' own name)
    # In the order in which a clip needs them, so that each that is large sends the one before it back.
    model_cpu_offload_seq = "audio_encoder->reference_net->audio_projection->speed_encoder->face_locator->backbone->vae"
    audio_encoder: nn.Module | None
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
    def from_pretrained(
        cls, folder: str | os.PathLike, *, torch_dtype: torch.dtype | None = None, variant: str | None = None
    ) -> Self:
        """Load a model folder, all or nothing. Raises what `emo_core.checkpoint.load` raises.

        torch_dtype: what to compute in; the audio encoder stays as it is, for the model was trained on what it hears.
        """
        checkpoint = load(Path(folder), variant=variant, torch_dtype=torch_dtype)
        checkpoint.model.eval().channels_last()
        return cls.of(checkpoint)

    def save_pretrained(self, folder: str | os.PathLike, *, variant: str | None = None) -> None:
        """Write the model folder, all or nothing. variant: see `emo_core.checkpoint.save`."""
        save(self.checkpoint, Path(folder), variant=variant)

    @property
    def dtype(self) -> torch.dtype:
        """What the denoising is computed in."""
        return self.backbone.dtype

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """As in diffusers, but no type goes to the audio encoder, see `from_pretrained`."""
        encoder, self.audio_encoder = self.audio_encoder, None
        try:
            super().to(*args, **kwargs)
        finally:
            self.audio_encoder = encoder
        if encoder is not None:
            encoder.to(self.backbone.device)
        return self

    def __call__(
        self, portrait: Portrait, drive: Drive, sampling: Sampling, callback_on_step_end: OnStep | None = None
    ) -> np.ndarray:
        """The whole video, uint8 (F, pixels, pixels, 3). `stream` gives the same in constant memory."""
        return np.concatenate(list(self.stream(portrait, drive, sampling, callback_on_step_end)))

    def stream(
        self, portrait: Portrait, drive: Drive, sampling: Sampling, callback_on_step_end: OnStep | None = None
    ) -> Iterator[np.ndarray]:
        """The video clip by clip, each uint8 (up to f, pixels, pixels, 3): exactly F frames in all.

        callback_on_step_end: steps are counted through the whole video, see `total_steps`.
        """
        try:
            talk = self.begin(portrait, drive, sampling)
            while talk.done < talk.clips:
                (latents,) = self.advance([talk], callback_on_step_end)
                yield self.show(talk, talk.done - 1, latents).cpu().numpy()
        finally:
            self.maybe_free_model_hooks()

    def total_steps(self, frames: int, sampling: Sampling) -> int:
        """Denoising steps that a video of so many frames takes."""
        return self._clips(frames) * sampling.steps

    @property
    def _side_by_side(self) -> int:
        # accelerate's hooks move weights whenever a network is called, under the feet of whoever computes with them.
        return 1 if hasattr(self.backbone, "_hf_hook") else side_by_side(self._execution_device)

    def _clips(self, frames: int) -> int:
        return -(-frames // self.checkpoint.card.config.frames)

    @torch.no_grad()
    def begin(
        self, portrait: Portrait, drive: Drive, sampling: Sampling, done: int = 0, last: Tensor | None = None
    ) -> Talk:
        """Whatever is computed once per video: the portrait's features and their keys and values (EMO 3.2.3), the
        face region's code (EMO 3.2.5), and what silence sounds like.

        done, last: of an earlier talk of the same video, which then goes on bit for bit.
        """
        config, model = self.checkpoint.card.config, self.checkpoint.model
        device, dtype = self._execution_device, self.dtype
        seen = model.reference_net(
            encode_pictures(self.vae, portrait.picture[None].to(device, self.vae.dtype)).to(dtype)
        )
        # Without sound all frames are alike: one is listened to.
        unheard = torch.zeros_like(torch.from_numpy(surroundings(drive.audio, 0, 1, config.audio_margin)))[None]
        return Talk(
            drive=drive,
            sampling=sampling,
            clips=self._clips(len(drive.speed)),
            reference=model.backbone.project_reference(seen.attention),
            silence={
                name: KeyValue(*(value.expand(config.frames, -1, -1, -1) for value in pair))
                for name, pair in model.hear(unheard.to(device, dtype)).items()
            },
            location=model.face_locator(portrait.mask[None].to(device, dtype)),
            motion=model.backbone.zero_motion(seen.maps, 1, config.motion_frames),
            done=done,
            last=None if last is None else last.to(device),
        )

    @torch.no_grad()
    def advance(self, talks: Sequence[Talk], callback_on_step_end: OnStep | None = None) -> list[Tensor]:
        """The next clip of each talk, denoised together: latents (f, C, H, W) for `show`.

        From clip to clip latents are handed over, for encoding pixels again would shift their colour at every join.
        All talks advance or none. callback_on_step_end: its steps are counted from the first talk's beginning. Raises
        ValueError where there is no talk, one has ended, or they are not denoised in the same steps.
        """
        if not talks or any(talk.done >= talk.clips for talk in talks):
            raise ValueError("only talks that have not ended can advance, and at least one")
        if not all(talk.sampling.goes_with(talks[0].sampling) for talk in talks):
            raise ValueError("talks that are denoised together must take the same steps, and guidance in the same ones")
        self._remember(talks)
        latents = self._denoise(talks, callback_on_step_end)
        for talk, clip in zip(talks, latents, strict=True):
            talk.last = clip
            talk.done += 1
        return list(latents)

    @torch.no_grad()
    def show(self, talk: Talk, clip: int, latents: Tensor) -> Tensor:
        """A clip's latents (f, C, H, W) as pictures, uint8 (up to f, pixels, pixels, 3): no more than the video has."""
        shown = len(talk.drive.speed) - clip * self.checkpoint.card.config.frames
        pictures = decode_latents(self.vae, latents[:shown].to(self._execution_device, self.vae.dtype)).float()
        return ((pictures + 1) * 127.5).round().to(torch.uint8).movedim(1, -1)

    def _remember(self, talks: Sequence[Talk]) -> None:
        """Send the last frames of all talks through ReferenceNet, once per clip (EMO 3.2.4)."""
        going_on = [(talk, talk.last) for talk in talks if talk.last is not None and talk.motion]
        if going_on:
            before = self.checkpoint.card.config.motion_frames
            last = torch.cat([latents[-before:] for _, latents in going_on]).to(self.dtype)
            motion = stack_motion(self.reference_net(last).maps, len(going_on))
            for row, (talk, _) in enumerate(going_on):
                talk.motion = {name: value[row : row + 1] for name, value in motion.items()}

    def _denoise(self, talks: Sequence[Talk], callback_on_step_end: OnStep | None) -> Tensor:
        """Clean latents float32 (talks, f, C, H, W)."""
        config, device = self.checkpoint.card.config, self._execution_device
        sampling = talks[0].sampling
        guided = [sampling.is_guided(step) for step in range(sampling.steps)]
        runs = {kind: self._run(talks, guided=kind) for kind in set(guided)}
        scheduler = scheduler_for(sampling, self.scheduler)
        noise = torch.stack([clip_noise(config, talk.sampling.seed, talk.done) for talk in talks])
        latents = (noise * scheduler.init_noise_sigma).to(device)
        # The schedule stays on the CPU: looking a number up there does not wait for the accelerator.
        on_device = scheduler.timesteps.to(device)
        first = talks[0].done * sampling.steps
        with lanes(self._side_by_side) as each:
            for step, timestep in enumerate(scheduler.timesteps):
                predict = runs[guided[step]]
                prediction = predict(scheduler.scale_model_input(latents, timestep), on_device[step], each)
                latents = scheduler.step(prediction, timestep, latents).prev_sample
                if callback_on_step_end is not None:
                    latents = callback_on_step_end(self, first + step, timestep, {"latents": latents})["latents"]
        return latents

    def _run(self, talks: Sequence[Talk], *, guided: bool) -> Callable[[Tensor, Tensor, Lanes], Tensor]:
        """(latents (talks, f, C, H, W), timestep) -> what the Backbone predicts for the talks' next clips, float32."""
        device, dtype = self._execution_device, self.dtype
        branches = [talk.sampling.branches if guided else UNGUIDED for talk in talks]
        told = [each for talk, of_it in zip(talks, branches, strict=True) for each in self.tell(talk, of_it)]
        # In one batch, or where several lanes are to be filled, run by run.
        conditions = [join([each]) for each in told] if self._side_by_side > 1 else [join(told)]
        weights = [torch.tensor([float(branch.weight) for branch in of_it]).to(device) for of_it in branches]
        counts = [len(each) for each in weights]
        rows = torch.repeat_interleave(torch.arange(len(talks)), torch.tensor(counts)).to(device)

        def predict(latents: Tensor, timestep: Tensor, each: Lanes) -> Tensor:
            # Always laid out alike: the first step's noise and what the Backbone returns are not.
            copies = latents[rows].to(dtype).contiguous().tensor_split(len(conditions))

            @torch.no_grad()
            def run(part: int) -> Tensor:
                return self.backbone(copies[part], timestep.expand(len(copies[part])), conditions[part]).float()

            # Talk by talk: what is not a number in one must not reach another.
            pairs = zip(weights, torch.cat(list(each(run, range(len(conditions))))).split(counts), strict=True)
            return torch.stack([torch.einsum("b,bfchw->fchw", *pair) for pair in pairs])

        return predict

    @torch.no_grad()
    def tell(self, talk: Talk, branches: Sequence[Branch]) -> list[Conditions]:
        """What some branches of a talk are told during its next clip, of which `talk.motion` says what went before."""
        config, model = self.checkpoint.card.config, self.checkpoint.model
        device, dtype = self._execution_device, self.dtype
        audio, speed = (
            torch.from_numpy(surroundings(values, talk.done * config.frames, config.frames, config.audio_margin))[None]
            for values in (talk.drive.audio, talk.drive.speed)
        )
        told = Conditions(
            reference=talk.reference,
            audio=model.hear(audio.to(device, dtype)),
            motion=talk.motion,
            speed=model.pace(speed.to(device)),
            location=talk.location,
        )
        blind = {name: KeyValue(*map(torch.zeros_like, pair)) for name, pair in talk.reference.items()}
        return [
            replace(
                told,
                reference=told.reference if branch.sees else blind,
                audio=told.audio if branch.hears else talk.silence,
            )
            for branch in branches
        ]
