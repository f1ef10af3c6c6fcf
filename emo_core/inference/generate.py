"""One portrait and one sound file become one video file: the whole of inference, from files to files."""

import dataclasses
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from emo_core.checkpoint import Card, at_hand, fingerprint
from emo_core.inference.export import MARK, stamp, write_sheet, write_sidecar, write_talking
from emo_core.inference.paste import Paste
from emo_core.inference.pipeline import Drive, EMOPipeline, OnStep, Talk
from emo_core.inference.preprocess import JITTERS, Choice, frame_portrait, parse_speed
from emo_core.inference.sampling import Sampling
from emo_core.inference.unfinished import Unfinished, beside
from emo_core.measure.clock import device_name
from emo_data.errors import UserError
from emo_data.features.audio import Heard
from emo_data.film import Premiere
from emo_data.indexed import ByTime
from emo_data.schema import FPS, SAMPLE_RATE
from emo_data.sound import FILM_RATE, film_sound, spool_sound

Advance = Callable[[Talk, OnStep], Tensor]
"""(talk, callback) -> latents of its next clip, see `EMOPipeline.advance`."""
OnProgress = Callable[[int, int], None]
"""(denoising steps done, steps in all)."""


_LIBRARIES = ("torch", "diffusers", "transformers", "mediapipe", "numpy", "av", "opencv-contrib-python")
Separate = Callable[[np.ndarray], np.ndarray]
"""float32 (S,) at 16 kHz, voice and music -> the voice alone, as long."""


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
    paste: bool = False
    """Whether the whole picture is shown, with the moving face in it, and not its square alone."""
    mark: bool = False
    """Whether every frame shows that a machine made it."""
    preview: Path | None = None
    resume: bool = False
    """Keep what is done where the process ends, in OUT.unfinished, and go on with what is there."""
    watch: Path | None = None
    """A file in which the video can be watched while it is made, see `emo_data.film.Premiere`."""


class NoRoom(UserError):
    """The disk takes no more; it is nobody's portrait or sound."""


class Loaded(NamedTuple):
    """A model that is ready to speak."""

    pipeline: EMOPipeline
    fingerprint: str
    compiled: bool


def load_pipeline(model: str | Path, device: torch.device, *, compiled: bool = False) -> Loaded:
    """model: a folder, or one in a store. compiled: torch.compile makes the Backbone faster first, which takes minutes
    and is worth it for long videos on a GPU. Raises UserError where it is none, or one that does not listen."""
    with at_hand(model) as folder:
        pipeline = EMOPipeline.from_pretrained(folder).to(device)
        known = fingerprint(folder)
    if pipeline.checkpoint.audio_encoder is None:
        stage = pipeline.checkpoint.card.stage
        raise UserError(f"{model}: a model of stage {stage} does not listen yet; train stage 2 and give its model")
    if compiled:
        pipeline.backbone.compile(fullgraph=True, dynamic=False)
    return Loaded(pipeline, known, compiled)


def generate(
    loaded: Loaded,
    request: Request,
    on_progress: OnProgress | None = None,
    on_note: Callable[[str], None] | None = None,
    separate: Separate | None = None,
    advance: Advance | None = None,
) -> int:
    """Write `request.out`, and a JSON file beside it that says how it was made; return its number of frames,
    round(seconds of sound * 25).

    on_note: is told what a person should know before it is too late. separate: where there is music, too: the model
    listens to the voice alone, the video keeps the whole sound. advance: who denoises clips, where it is not the
    pipeline for this video alone, see `emo_core.inference.together`. Raises UserError for whatever is wrong with the
    portrait, the sound, the region or the speed, and ValueError for a separation of another length; then nothing is
    written.
    """
    began = time.monotonic()
    check_out(request.out, request.portrait, request.audio)
    pipeline, card = loaded.pipeline, loaded.pipeline.checkpoint.card
    if card.speed_buckets is None and request.speed != Request.speed:
        raise UserError(f"--speed {request.speed}: this model knows no speeds; train stage 3 and give its model")
    sound = spool_sound(request.audio, request.out.parent)
    frames = round(len(sound) / SAMPLE_RATE * FPS)
    if frames < 1:
        raise UserError(f"{request.audio}: {len(sound) / SAMPLE_RATE:.3f} s of sound is less than one frame")
    framed = frame_portrait(request.portrait, card.config.size, request.region, request.choice)
    speed = parse_speed(request.speed, frames, FPS)
    if on_note is not None and speed.max() > JITTERS:
        on_note(f"--speed {request.speed}: above {JITTERS} degrees per frame heads jitter")
    encoder = pipeline.checkpoint.audio_encoder
    assert encoder is not None  # load_pipeline has seen to it
    voice: ByTime = sound if separate is None else _separated(separate, sound[:])
    drive = Drive(Heard(encoder, voice, frames, FPS), speed)
    settings = _settings(request, loaded, card, frames)
    settings["voice"] = (
        hashlib.sha256(voice.tobytes()).hexdigest() if isinstance(voice, np.ndarray) else settings["audio"]
    )
    told = {name: settings[name] for name in ("tool", "version", "model", "seed")}
    with _room(request), beside(request.out, keep=request.resume) as place:
        clips = -(-frames // card.config.frames)
        with (
            _premiere(request, len(sound) / SAMPLE_RATE) as premiere,
            Unfinished(place, settings, clips, card.config.frames, FPS, premiere) as unfinished,
        ):
            talk = pipeline.begin(framed.portrait, drive, request.sampling, unfinished.done, unfinished.last)
            paste = Paste(framed.whole, framed.square) if request.paste else None
            finish = partial(_finished, paste, request.mark)
            _denoise(pipeline, talk, unfinished, advance or partial(_alone, pipeline), finish, on_progress)
        # Put together in there: of whatever ends the process now, nothing is left beside the video.
        heard = film_sound(request.audio, len(sound) / SAMPLE_RATE)
        write_talking(place / request.out.name, unfinished.segments, heard, told)
        (place / request.out.name).replace(request.out)
        if request.preview is not None:
            write_sheet(request.out, request.preview)
        # Last: who finds it finds the whole result.
        device = device_name(pipeline.backbone.device)
        write_sidecar(request.out, settings | {"device": device}, round(time.monotonic() - began, 1))
    return frames


def _premiere(request: Request, seconds: float) -> AbstractContextManager[Premiere | None]:
    if request.watch is None:
        return nullcontext()
    return Premiere(request.watch, FPS, film_sound(request.audio, seconds), FILM_RATE)


@contextmanager
def _room(request: Request) -> Iterator[None]:
    """A full disk is said, with what is safe."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        safe = "; what is finished is kept, type it again" if request.resume else ""
        raise NoRoom(f"--out {request.out}: cannot be written: {error}{safe}") from error


def _separated(separate: Separate, sound: np.ndarray) -> np.ndarray:
    voice = np.ascontiguousarray(separate(sound), np.float32)
    if voice.shape != sound.shape or not np.isfinite(voice).all():
        raise ValueError(f"the separated voice is {voice.shape}; it must be finite and of the sound's {sound.shape}")
    return voice


def check_out(out: Path, *sources: Path) -> None:
    """UserError where no video can be written there, or it would replace what is not ours."""
    if out.suffix.lower() != ".mp4":
        raise UserError(f"--out {out}: must end in .mp4")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: the folder {out.parent} does not exist")
    if not os.access(out.parent, os.W_OK):
        raise UserError(f"--out {out}: nothing may be written in {out.parent}")
    if out.exists() and not out.is_file():
        raise UserError(f"--out {out}: is there and is no file")
    if any(source.exists() and out.exists() and source.samefile(out) for source in sources):
        raise UserError(f"--out {out}: is what the video is made from; choose another name")
    sidecar = out.with_suffix(".json")
    if sidecar.exists() and MARK not in sidecar.read_text(errors="replace"):
        raise UserError(f"--out {out}: {sidecar.name} beside it is something else; choose another name")


def _denoise(
    pipeline: EMOPipeline,
    talk: Talk,
    unfinished: Unfinished,
    advance: Advance,
    finish: Callable[[Tensor], Iterator[np.ndarray]],
    on_progress: OnProgress | None,
) -> None:
    """All clips that are in no segment yet.

    A clip is copied from the device, kept and encoded on a thread of its own while the next one is denoised. No network
    runs on that one: where OpenMP has threads, two that want them make each other several times slower.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="encode") as thread:
        encoded: Future[None] | None = None
        for clip, latents in _clips(talk, unfinished, advance, on_progress):
            pictures = pipeline.show(talk, clip, latents)
            if encoded is not None:
                encoded.result()
            encoded = thread.submit(unfinished.add, clip, latents, finish(pictures))
        if encoded is not None:
            encoded.result()


def _alone(pipeline: EMOPipeline, talk: Talk, tell: OnStep) -> Tensor:
    (latents,) = pipeline.advance([talk], tell)
    return latents


def _clips(
    talk: Talk, unfinished: Unfinished, advance: Advance, on_progress: OnProgress | None
) -> Iterator[tuple[int, Tensor]]:
    """Number and latents of the clips that are in no segment yet: those that are done, and the others as they get
    done."""
    total = talk.clips * talk.sampling.steps

    def tell(_: EMOPipeline, step: int, __: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
        if on_progress is not None:
            on_progress(step + 1, total)
        return given

    waiting = unfinished.waiting()
    yield from enumerate(waiting, start=talk.done - len(waiting))
    while talk.done < talk.clips:
        latents = advance(talk, tell)
        yield talk.done - 1, latents


def _finished(paste: Paste | None, mark: bool, pictures: Tensor) -> Iterator[np.ndarray]:
    """Frames as they are to be seen. pictures: uint8 (f, pixels, pixels, 3)."""
    for frame in pictures.cpu().numpy():
        shown = frame if paste is None else paste(frame)
        yield stamp(shown) if mark else shown


def _settings(request: Request, loaded: Loaded, card: Card, frames: int) -> dict[str, Any]:
    """All that decides the frames, as JSON: files by their content, for they may lie elsewhere tomorrow."""
    return {
        "tool": "Open EMO",
        "version": version("open-emo"),
        "libraries": {name: version(name) for name in _LIBRARIES},
        "model": loaded.fingerprint,
        "stage": card.stage,
        "portrait": _content(request.portrait),
        "audio": _content(request.audio),
        "speed": _said(request.speed),
        "region": _said(request.region),
        **dataclasses.asdict(request.choice),
        **{name: list(value) if isinstance(value, tuple) else value for name, value in vars(request.sampling).items()},
        "paste": request.paste,
        "mark": request.mark,
        "compiled": loaded.compiled,
        "frames": frames,
        "fps": FPS,
    }


def _said(option: str) -> str:
    """A word, numbers, or a file's content."""
    return f"sha256:{_content(Path(option))}" if Path(option).is_file() else option


def _content(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
