"""What the model in training can do by now, through the pipeline that serves: a video, or a picture in stage 1."""

from pathlib import Path

import numpy as np
import torch

from emo_core.checkpoint import Checkpoint
from emo_core.inference.export import MARK, contact_sheet, save_picture
from emo_core.inference.pipeline import Drive, EMOPipeline, Portrait
from emo_core.inference.sampling import Sampling
from emo_core.model.codec import decode_latents
from emo_core.training.latents import LatentCache
from emo_data.dataset.loader import ClipReader
from emo_data.dataset.sample import Clip
from emo_data.dataset.window import region_mask
from emo_data.schema import SAMPLE_RATE
from emo_data.video import encode_video
from emo_data.whole import whole_file

STEPS = 10
CLIPS = 4
"""Length of a preview, in clips of f frames."""


def write_preview(
    folder: Path, checkpoint: Checkpoint, clip: Clip, cache: LatentCache, reader: ClipReader, step: int
) -> Path:
    """The clip's own voice, speed and region with its first frame as the portrait; what was filmed is on the left.

    Stage 1 knows no time: its preview is a picture of frames that are drawn one by one.
    """
    card = checkpoint.card
    frames = min(clip.frames, CLIPS * card.config.frames) if card.stage > 1 else card.config.frames
    stored = torch.from_numpy(np.array(cache.latents(clip.clip_id)[:frames])).float()
    filmed = decode_latents(checkpoint.codec, stored.to(next(checkpoint.model.parameters())))
    mask = torch.from_numpy(region_mask(clip.box[:frames], card.config.size))
    silence = np.zeros((frames, card.config.audio_layers, card.config.audio_width), np.float32)
    drive = Drive(
        audio=silence if clip.audio is None else clip.audio[:frames].astype(np.float32),
        speed=np.nan_to_num(clip.speed[:frames]),
    )
    made = EMOPipeline.of(checkpoint)(Portrait(filmed[0], mask), drive, Sampling(steps=STEPS))
    truth = ((filmed + 1) * 127.5).round().to(torch.uint8).movedim(1, -1).cpu().numpy()
    pair = np.concatenate([truth, made], axis=2)
    if card.stage == 1:
        path = folder / f"{step:06d}.png"
        save_picture(contact_sheet(pair, columns=4), path)
        return path
    path = folder / f"{step:06d}.mp4"
    sound = reader.sound(clip.clip_id)[: round(frames / reader.fps * SAMPLE_RATE)]
    with whole_file(path) as unfinished:
        encode_video(unfinished, pair, reader.fps, sound, comment=MARK)
    return path
