"""The model that is measured, with random weights or none, and one denoising step of it beside its baseline."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from emo_core.bench.baseline import BareAttentions, motion_unet
from emo_core.checkpoint import Card, Checkpoint
from emo_core.diffusion import noise_schedule
from emo_core.inference.pipeline import Drive, EMOPipeline, Portrait
from emo_core.inference.preprocess import Choice, frame_portrait, parse_speed
from emo_core.inference.sampling import Sampling
from emo_core.model.backbone import join
from emo_core.model.config import ModelConfig
from emo_core.model.emo import build
from emo_core.model.pretrained import SD15_VAE
from emo_core.model.speed import fit_buckets
from emo_data.features.audio import Heard
from emo_data.schema import FPS, SAMPLE_RATE

PAPER = Sampling(steps=40, reference_scale=2, audio_scale=2)
"""40 steps of DDIM (EMO 4.1) and joint guidance, which is ours: two branches."""
FAST = Sampling(steps=8, reference_scale=1, audio_scale=1)
"""8 steps, one branch."""


def on_meta(config: ModelConfig, dtype: torch.dtype = torch.float32) -> EMOPipeline:
    """The pipeline of a whole model without memory and without values."""
    buckets = fit_buckets(np.zeros(0), config.speed_buckets)
    with torch.device("meta"):
        model = build(config, 3, buckets).to(dtype).eval()
        vae = AutoencoderKL(**SD15_VAE, latent_channels=config.latent_channels).eval()
        nn.Module.to(vae, dtype)  # without diffusers' warning, which names no module
    card = Card(stage=3, config=config, audio_fingerprint=None, speed_buckets=buckets, lineage=[])
    return EMOPipeline.of(Checkpoint(card, model, vae, noise_schedule(config.prediction), audio_encoder=None))


def on_device(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> EMOPipeline:
    """The same with memory and random values."""
    pipeline = on_meta(config, dtype)
    for part in parts(pipeline):
        randomise(part, device)
    pipeline.checkpoint.model.channels_last()
    return pipeline


def parts(pipeline: EMOPipeline) -> list[nn.Module]:
    """The pipeline's networks."""
    return [part for part in pipeline.components.values() if isinstance(part, nn.Module)]


@torch.no_grad()
def randomise(module: nn.Module, device: torch.device) -> None:
    """Small random values on a device for a module that had none: no zeros, and no numbers too small to be fast."""
    module.to_empty(device=device)
    for value in [*module.parameters(), *module.buffers()]:
        value.normal_(std=0.02)


def a_talk(config: ModelConfig, clips: int) -> tuple[Portrait, Drive]:
    """A portrait and a voice of so many clips; what they show and say does not change what they cost."""
    frames = clips * config.frames
    audio = np.zeros((frames, config.audio_layers, config.audio_width), np.float32)
    picture, mask = torch.zeros(3, config.size, config.size), torch.ones(1, config.size, config.size)
    return Portrait(picture, mask), Drive(audio, np.full(frames, 0.4, np.float32))


def from_files(pipeline: EMOPipeline, portrait: Path, sound: np.ndarray) -> tuple[Portrait, Drive]:
    """What `emo generate` would give the pipeline where nothing else is asked for. sound: float32 (S,) at 16 kHz."""
    framed = frame_portrait(portrait, pipeline.checkpoint.card.config.size, "auto", Choice())
    return framed.portrait, calm(pipeline, sound)


def calm(pipeline: EMOPipeline, sound: np.ndarray) -> Drive:
    """A sound that nothing was heard of yet, and a calm head. sound: as above."""
    frames = round(len(sound) / SAMPLE_RATE * FPS)
    encoder = pipeline.checkpoint.audio_encoder
    assert encoder is not None  # load_pipeline has seen to it
    return Drive(Heard(encoder, sound, frames, FPS), parse_speed("calm", frames, FPS))


class Step:
    """One denoising step of one clip and branch, and the same work by diffusers' classes."""

    def __init__(self, pipeline: EMOPipeline) -> None:
        config = pipeline.checkpoint.card.config
        self.config, self.backbone = config, pipeline.checkpoint.model.backbone
        self.device, self.dtype = self.backbone.device, self.backbone.dtype
        with torch.no_grad():
            self.conditions = join(pipeline.tell(pipeline.begin(*a_talk(config, 1), FAST), FAST.branches))
        self.latents = self._random(1, config.frames, *config.latent_shape)
        self.timestep = torch.tensor([500]).to(self.device)

    @torch.no_grad()
    def ours(self) -> None:
        """The Backbone's."""
        self.backbone(self.latents, self.timestep, self.conditions)

    def prepare_baseline(self) -> None:
        """Make what `baseline` needs: as much memory again as the Backbone has."""
        with torch.device("meta"):
            self.unet = motion_unet(self.config).eval()
            nn.Module.to(self.unet, self.dtype)
            self.bare = BareAttentions(self.backbone, self.conditions, self.config).to(self.dtype)
        if self.device.type != "meta":
            randomise(self.unet, self.device)
            randomise(self.bare, self.device)
        self.inputs = {shape: self._random(*shape) for shape in self.bare.shapes}
        self.clip = self.latents.transpose(1, 2).contiguous()
        self.tokens = self._random(self.config.frames, self.config.audio_tokens, self.config.audio_token_width)

    @torch.no_grad()
    def baseline(self) -> None:
        """diffusers' UNetMotionModel, and the bare attentions that it lacks."""
        self.unet(self.clip, self.timestep, encoder_hidden_states=self.tokens)
        self.bare(self.inputs)

    def _random(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.dtype, device=self.device).normal_()
