"""What the model in training can do by now, through the pipeline that serves: a video, or a picture in stage 1."""

import tempfile
from pathlib import Path

import numpy as np
import torch

from emo_core.checkpoint import Checkpoint
from emo_core.inference.export import MARK, contact_sheet, save_picture
from emo_core.inference.pipeline import Drive, EMOPipeline, Portrait
from emo_core.inference.sampling import Sampling
from emo_core.model.codec import decode_latents
from emo_core.training.latents import encode
from emo_core.training.run_folder import RunFolder
from emo_data.dataset.index import ClipIndex, seconds_of_sound
from emo_data.dataset.window import region_mask, region_of
from emo_data.film import encode_video

STEPS = 10
CLIPS = 4
"""Length of a preview, in clips of f frames."""


def write_preview(run: RunFolder, checkpoint: Checkpoint, index: ClipIndex, bf16: bool, step: int) -> None:
    """A clip's own voice, speed and region with its first frame as the portrait; what was filmed is on the left.

    Stage 1 knows no time: its preview is a picture of frames that are drawn one by one.
    """
    card = checkpoint.card
    clip = int(np.argmax(index.lengths >= CLIPS * card.config.frames))  # the first that is long enough, or the first
    row = index.read(clip, ["box", "speed"] + ["audio_features"] * (card.stage > 1))
    frames = min(len(row["box"]), (CLIPS if card.stage > 1 else 1) * card.config.frames)
    pictures = torch.from_numpy(index.pictures(clip, np.arange(frames)))
    filmed = decode_latents(checkpoint.codec, encode(checkpoint.codec, pictures, bf16))
    audio = np.zeros((frames, card.config.audio_layers, card.config.audio_width), np.float32)
    if card.stage > 1:
        audio[:] = row["audio_features"].reshape(len(row["box"]), *audio.shape[1:])[:frames]
    drive = Drive(audio=audio, speed=np.nan_to_num(row["speed"][:frames]))
    mask = torch.from_numpy(region_mask(region_of(row["box"]), card.config.size))
    made = EMOPipeline.of(checkpoint)(Portrait(filmed[0], mask), drive, Sampling(steps=STEPS))
    truth = ((filmed + 1) * 127.5).round().to(torch.uint8).movedim(1, -1).cpu().numpy()
    pair = np.concatenate([truth, made], axis=2)
    with tempfile.TemporaryDirectory() as scratch:
        if card.stage == 1:
            path = Path(scratch) / f"{step:06d}.png"
            save_picture(contact_sheet(pair, columns=4), path)
        else:
            path = Path(scratch) / f"{step:06d}.mp4"
            sound = index.sound(clip)[: seconds_of_sound(frames, index.fps)]
            encode_video(path, pair, index.fps, sound, comment=MARK)
        with run.writing("the preview"):
            run.folder.put(f"previews/{path.name}", path)
