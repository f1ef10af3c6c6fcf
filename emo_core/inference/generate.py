"""One portrait and one sound file become one video file: the whole of inference, from files to files."""

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emo_core.ahead import ahead
from emo_core.checkpoint import Card, at_hand, fingerprint
from emo_core.inference.export import stamp, write_sheet, write_sidecar, write_talking
from emo_core.inference.pipeline import Drive, EMOPipeline, Talk
from emo_core.inference.preprocess import Choice, frame_portrait, parse_speed
from emo_core.inference.sampling import Sampling
from emo_core.inference.unfinished import Unfinished, beside
from emo_core.measure.clock import device_name
from emo_data.errors import UserError
from emo_data.features.audio import Heard
from emo_data.schema import FPS, SAMPLE_RATE
from emo_data.sound import read_sound

OnProgress = Callable[[int, int], None]
"""(denoising steps done, steps in all)."""


@dataclass(frozen=True)
class Request:
    """What a person asks for."""

    portrait: Path
    audio: Path
    out: Path
    speed: str = "calm"
    region: str = "auto"
    choice: Choice = field(default_factory=Choice)
    sampling: Sampling = field(default_factory=Sampling)
    mark: bool = False
    """Whether every frame shows that a machine made it."""
    compiled: bool = False
    """Whether torch.compile makes the Backbone faster first: minutes, on a GPU, for long videos."""
    preview: Path | None = None
    resume: bool = False
    """Keep what is done where the process ends, in OUT.unfinished, and go on with what is there."""


def generate(model: str | Path, request: Request, device: torch.device, on_progress: OnProgress | None = None) -> int:
    """Write `request.out`, and a JSON file beside it that says how it was made; return its number of frames,
    round(seconds of sound * 25).

    model: a folder, or one in a store. Raises UserError for whatever is wrong with the model, the portrait, the sound,
    the region or the speed; then nothing is written.
    """
    began = time.monotonic()
    if request.out.suffix.lower() != ".mp4":
        raise UserError(f"--out {request.out}: must end in .mp4")
    if not request.out.parent.is_dir():
        raise UserError(f"--out {request.out}: the folder {request.out.parent} does not exist")
    with at_hand(model) as folder:
        pipeline = EMOPipeline.from_pretrained(folder).to(device)
        known = fingerprint(folder)
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
    portrait = frame_portrait(request.portrait, card.config.size, request.region, request.choice)
    drive = Drive(Heard(encoder, sound, frames, FPS), parse_speed(request.speed, frames, FPS))
    if request.compiled:
        pipeline.backbone.compile(fullgraph=True, dynamic=False)
    settings = _settings(request, known, card, frames)
    with beside(request.out, keep=request.resume) as place:
        unfinished = Unfinished(place, settings, card.config.frames, FPS)
        talk = pipeline.begin(portrait, drive, request.sampling, unfinished.done, unfinished.last)
        clips = ahead(_clips(pipeline, talk, unfinished, on_progress))
        while len(unfinished.segments) * unfinished.clips_each < talk.clips:
            segment = (frame for clip in islice(clips, unfinished.clips_each) for frame in clip)
            unfinished.encode(map(stamp, segment) if request.mark else segment)
        told = {name: settings[name] for name in ("tool", "version", "model", "seed")}
        write_talking(request.out, unfinished.segments, sound, SAMPLE_RATE, told)
    if request.preview is not None:
        write_sheet(request.out, request.preview)
    write_sidecar(request.out, settings | {"device": device_name(device)}, round(time.monotonic() - began, 1))
    return frames


def _clips(
    pipeline: EMOPipeline, talk: Talk, unfinished: Unfinished, on_progress: OnProgress | None
) -> Iterator[np.ndarray]:
    """The clips that are in no segment yet: those that are done already, and the others as they get done."""
    total = talk.clips * talk.sampling.steps

    def tell(_: EMOPipeline, step: int, __: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
        if on_progress is not None:
            on_progress(step + 1, total)
        return given

    waiting = unfinished.waiting()
    for clip, latents in enumerate(waiting, start=talk.done - len(waiting)):
        yield pipeline.show(talk, clip, latents).cpu().numpy()
    while talk.done < talk.clips:
        (pictures,) = pipeline.advance([talk], tell)
        assert talk.last is not None
        unfinished.keep(talk.done - 1, talk.last)
        yield pictures.cpu().numpy()


def _settings(request: Request, model: str, card: Card, frames: int) -> dict[str, Any]:
    """All that decides the frames, as JSON: files by their content, for they may lie elsewhere tomorrow."""
    given = [request.speed] if request.speed.endswith(".csv") else []
    given += [request.region] if Path(request.region).is_file() else []
    return {
        "tool": "Open EMO",
        "version": version("open-emo"),
        "libraries": {name: version(name) for name in ("torch", "diffusers", "transformers", "mediapipe")},
        "model": model,
        "stage": card.stage,
        "portrait": _content(request.portrait),
        "audio": _content(request.audio),
        "speed": request.speed,
        "region": request.region,
        "files": {name: _content(Path(name)) for name in given},
        **dataclasses.asdict(request.choice),
        **{name: list(value) if isinstance(value, tuple) else value for name, value in vars(request.sampling).items()},
        "mark": request.mark,
        "compiled": request.compiled,
        "frames": frames,
        "fps": FPS,
    }


def _content(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
