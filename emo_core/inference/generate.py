"""One portrait and one sound file become one video file: the whole of inference, from files to files."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from emo_core.inference.export import write_talking
from emo_core.inference.pipeline import Drive, EMOPipeline
from emo_core.inference.preprocess import frame_portrait, parse_speed
from emo_core.inference.sampling import Sampling
from emo_data.errors import UserError
from emo_data.schema import FPS, SAMPLE_RATE
from emo_data.sound import read_sound


@dataclass(frozen=True)
class Request:
    """What a person asks for."""

    portrait: Path
    audio: Path
    out: Path
    speed: str = "calm"
    region: str = "auto"
    sampling: Sampling = field(default_factory=Sampling)
    preview: Path | None = None


def generate(
    model: Path, request: Request, device: torch.device, on_progress: Callable[[int, int], None] | None = None
) -> int:
    """Write `request.out`; return its number of frames, round(seconds of sound * 25).

    on_progress: is told (denoising steps done, steps in all). Raises UserError for whatever is wrong with the model,
    the portrait, the sound, the region or the speed; then nothing is written.
    """
    if request.out.suffix.lower() != ".mp4":
        raise UserError(f"--out {request.out}: must end in .mp4")
    if not request.out.parent.is_dir():
        raise UserError(f"--out {request.out}: the folder {request.out.parent} does not exist")
    pipeline = EMOPipeline.from_pretrained(model).to(device)
    card, encoder = pipeline.checkpoint.card, pipeline.checkpoint.audio_encoder
    if encoder is None:
        raise UserError(f"{model}: a model of stage {card.stage} does not listen yet; train stage 2 and give its model")
    if card.speed_buckets is None and request.speed != Request.speed:
        raise UserError(
            f"--speed {request.speed}: the model in {model} knows no speeds; train stage 3 and give its model"
        )
    sound = read_sound(request.audio)
    frames = round(len(sound) / SAMPLE_RATE * FPS)
    if frames < 1:
        raise UserError(f"{request.audio}: {len(sound) / SAMPLE_RATE:.3f} s of sound is less than one frame")
    portrait = frame_portrait(request.portrait, card.config.size, request.region)
    drive = Drive(encoder.encode(sound, frames, FPS), parse_speed(request.speed, frames, FPS))
    total = pipeline.total_steps(frames, request.sampling)

    def tell(_: EMOPipeline, step: int, __: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
        if on_progress is not None:
            on_progress(step + 1, total)
        return given

    blocks = pipeline.stream(portrait, drive, request.sampling, tell)
    write_talking(request.out, blocks, FPS, sound, SAMPLE_RATE, request.preview)
    return frames
