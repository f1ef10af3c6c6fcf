"""A small model learns from loud and silent frames; then another voice moves the mouth, and little else."""

import numpy as np
import torch

from emo_core.checkpoint import Card, Checkpoint
from emo_core.diffusion import noise_schedule
from emo_core.inference.pipeline import Drive, EMOPipeline
from emo_core.inference.sampling import Sampling
from emo_core.model.codec import LinearCodec, encode_pictures
from emo_core.model.emo import build
from emo_core.training.batch import Batch
from emo_data.dataset.sample import Origin
from tests.emo_core.conftest import batch_loss, portrait

MOUTH = np.s_[..., 2:, 1:3]
"""Of 4 x 4 latent pixels: below, in the middle."""


def voice(loudness, config):
    """Features (F, L, D) of which every number says how loud a frame is."""
    return np.ones((len(loudness), config.audio_layers, config.audio_width), np.float32) * loudness[:, None, None]


def draw(rng, config, face):
    """A batch in which the mouth of a still face is as open as its voice is loud."""
    count, frames = 8, config.frames
    loudness = rng.choice([-1.0, 1.0], (count, 1)).repeat(frames, 1).astype(np.float32)
    latents = np.broadcast_to(face, (count, frames, *face.shape)).copy()
    latents[MOUTH] += 1.5 * loudness[:, :, None, None, None]
    window = np.stack([voice(each, config) for each in loudness])[:, :, None].repeat(2 * config.audio_margin + 1, 2)
    values = {
        "latents": latents,
        "reference": latents[:, 0] * 0 + face,
        "motion": np.zeros((count, config.motion_frames, *face.shape), np.float32),
        "mask": np.ones((count, 1, config.size, config.size), np.float32),
        "audio": window,
        "noise": rng.standard_normal(latents.shape).astype(np.float32),
        "weight": np.ones((count, frames, 1, *face.shape[1:]), np.float32),
        "strata": rng.random(count),
        "keep_reference": np.ones(count, np.float32),
        "keep_motion": np.zeros(count, np.float32),
    }
    tensors = {name: torch.from_numpy(value) for name, value in values.items()}
    return Batch(origins=(Origin(0, 0, 0),) * count, **tensors, speed=None)


def test_another_voice_moves_the_mouth(config):
    torch.manual_seed(0)
    config = config.model_copy(update={"common_noise": 0.0, "channels": (16, 16)})
    codec = LinearCodec.fit(torch.rand(4, 3, 32, 32) * 2 - 1, config.codec_downscale, config.latent_channels)
    model, scheduler, rng = build(config, 2), noise_schedule("sample"), np.random.default_rng(0)
    who = portrait(config)
    face = encode_pictures(codec, who.picture[None])[0].numpy()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(100):
        optimizer.zero_grad()
        loss = batch_loss(model, scheduler, draw(rng, config, face), min_snr=5.0)
        loss.backward()
        optimizer.step()
    card = Card(stage=2, config=config, audio_fingerprint=None, speed_buckets=None, lineage=[])
    pipeline = EMOPipeline.of(Checkpoint(card, model.eval(), codec, scheduler, None))
    speed = np.zeros(config.frames, np.float32)
    made = []
    for sign in (-1, 1):
        sound = voice(np.full(config.frames, sign, np.float32), config)
        steps = []
        pipeline(who, Drive(sound, speed), Sampling(4, 1, 1), lambda *given, s=steps: s.append(given[3]) or given[3])
        made.append(steps[-1]["latents"].numpy())
    change = np.abs(made[1] - made[0])
    mouth = change[MOUTH].mean()
    rest = (change.sum() - change[MOUTH].sum()) / (change.size - change[MOUTH].size)
    assert mouth > 1.5  # of the 3 between loud and silent
    assert mouth > 5 * rest
