"""What generation costs: time and memory by length of sound, where the time goes, and what every shortcut gains and
loses."""

import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from emo_core.bench.subject import from_files
from emo_core.inference.export import contact_sheet, save_picture
from emo_core.inference.generate import Request, generate, load_pipeline
from emo_core.inference.pipeline import EMOPipeline
from emo_core.inference.sampling import Sampling
from emo_core.inference.unfinished import Unfinished
from emo_core.measure.clock import device_name, finish, forget_peak, peak_bytes
from emo_data.features.faces import FaceTracker
from emo_data.features.pose import MOUTH, mouth_opening
from emo_data.features.quality import mouth_sound_correlation
from emo_data.schema import FPS
from emo_data.sound import read_sound, write_sound
from emo_data.synthetic import synthesise_voice

LENGTHS = (2, 10, 60)
"""Seconds of sound."""
COMPILED = "the first, compiled"
SHOWN = 8
"""Frames of each way in the picture."""


class Spoken(BaseModel):
    """One video, from files to a file, in a process of its own; loading excluded."""

    model_config = ConfigDict(extra="forbid")

    sound_seconds: int
    frames: int
    seconds_per_frame: float
    peak_mib: float = Field(description="on a CPU of the whole process, else of the device")
    denoising_share: float = Field(description="of the time, in the Backbone; so the next two")
    reference_share: float
    vae_share: float
    encode_share: float = Field(description="keeping and encoding clips, on a thread of its own beside the rest")
    overhead_share: float = Field(description="outside these three: sound, faces, scheduler, waiting for the encoder")


class Way(BaseModel):
    """A way to sample, against the full one in the same run."""

    model_config = ConfigDict(extra="forbid")

    name: str
    seconds: float
    times_faster: float
    faces: float = Field(description="share of frames with a face")
    mouth_follows_voice: float | None = Field(description="correlation; null where it is not defined")
    seconds_before: float = Field(description="once per process, before the first video: compiling, else next to none")
    psnr: float | None = Field(description="dB, against the full one's frames; null for itself")


class GenerationFigures(BaseModel):
    """All figures of `emo bench generate`."""

    model_config = ConfigDict(extra="forbid")

    device: str
    torch: str
    steps: int
    branches: int
    overhead_share: float = Field(description="of the longest sound")
    peak_mib_10s: float
    peak_mib_60s: float
    spoken: list[Spoken]
    ways: list[Way]


@dataclass(frozen=True)
class Subject:
    """Whom to measure."""

    model: str
    portrait: Path
    audio: Path | None
    """Of the ways; None is a voice made in code, as it is for the lengths."""
    compiled: bool = False
    """Whether a compiled Backbone is one of the ways."""


def bench_generation(
    subject: Subject,
    sampling: Sampling,
    device: torch.device,
    picture: Path | None,
    on_progress: Callable[[int, int], None],
) -> GenerationFigures:
    """picture: where SHOWN frames of every way go, one below the other."""
    ways = ways_to(sampling)
    total, spoken = len(LENGTHS) + len(ways) + subject.compiled, []
    with tempfile.TemporaryDirectory() as folder:
        for length in LENGTHS:
            # Out here: what making a voice takes is not what making a video takes.
            voice = Path(folder) / f"{length}.wav"
            write_sound(voice, synthesise_voice([0, 9], length))
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
                threads = torch.get_num_threads()
                spoken.append(alone.submit(speak, subject, voice, sampling, str(device), threads).result())
            on_progress(len(spoken), total)
    found, rows = [], []
    for way, frames in _ways(subject, ways, device):
        found.append(way)
        rows.append(frames[np.linspace(0, len(frames) - 1, SHOWN).astype(int)])
        on_progress(len(spoken) + len(found), total)
    if picture is not None:
        save_picture(contact_sheet(np.concatenate(rows), columns=SHOWN), picture)
    peaks = {one.sound_seconds: one.peak_mib for one in spoken}
    return GenerationFigures(
        device=device_name(device),
        torch=torch.__version__,
        steps=sampling.steps,
        branches=len(sampling.branches),
        overhead_share=spoken[-1].overhead_share,
        peak_mib_10s=peaks[10],
        peak_mib_60s=peaks[60],
        spoken=spoken,
        ways=found,
    )


def ways_to(full: Sampling) -> dict[str, Sampling]:
    """The full sampler, and what is faster."""
    return {
        f"ddim {full.steps}": replace(full, scheduler="ddim"),
        "dpm++ 15": replace(full, scheduler="dpm++", steps=15),
        "unipc 8": replace(full, scheduler="unipc", steps=8),
        "ddim 8": replace(full, scheduler="ddim", steps=8),
        f"ddim {full.steps}, guided in the first half": replace(full, scheduler="ddim", guided=(0.0, 0.5)),
        f"ddim {full.steps}, guided in the second half": replace(full, scheduler="ddim", guided=(0.5, 1.0)),
        f"ddim {full.steps}, no guidance": replace(full, scheduler="ddim", reference_scale=1.0, audio_scale=1.0),
    }


def speak(subject: Subject, voice: Path, sampling: Sampling, device: str, threads: int) -> Spoken:
    """Make a video of a voice, whole seconds of it, and throw it away."""
    torch.set_num_threads(threads)
    on = torch.device(device)
    loaded = load_pipeline(subject.model, on)
    with tempfile.TemporaryDirectory() as folder:
        request = Request(subject.portrait, voice, Path(folder) / "video.mp4", sampling=sampling)
        forget_peak(on)
        with _clocked(loaded.pipeline, on) as spent:
            start = time.perf_counter()
            frames = generate(loaded, request)
            took = time.perf_counter() - start
    return Spoken(
        sound_seconds=round(frames / FPS),
        frames=frames,
        seconds_per_frame=took / frames,
        peak_mib=peak_bytes(on) / 2**20,
        denoising_share=spent["backbone"] / took,
        reference_share=spent["reference"] / took,
        vae_share=spent["vae"] / took,
        encode_share=spent["encode"] / took,
        overhead_share=1 - sum(spent[name] for name in ("backbone", "reference", "vae")) / took,
    )


@contextmanager
def _clocked(pipeline: EMOPipeline, device: torch.device) -> Iterator[dict[str, float]]:
    """Seconds in which each part is at work while the block runs; runs of one side by side count once."""
    host = torch.device("cpu")
    parts: list[tuple[str, Any, str, torch.device]] = [
        ("backbone", pipeline.backbone, "forward", device),
        ("reference", pipeline.reference_net, "forward", device),
        ("vae", pipeline.vae, "encode", device),
        ("vae", pipeline.vae, "decode", device),
        ("encode", Unfinished, "add", host),
    ]
    spent = {name: 0.0 for name, *_ in parts}
    with ExitStack() as undo:
        for name, owner, method, where in parts:
            undo.enter_context(_instead(owner, method, _timed(getattr(owner, method), name, spent, where)))
        yield spent


@contextmanager
def _instead(owner: Any, name: str, value: object) -> Iterator[None]:
    own = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)  # what the class has is seen again
        else:
            setattr(owner, name, own)


def _timed(original: Callable, name: str, spent: dict[str, float], device: torch.device) -> Callable:
    lock, running, began = Lock(), 0, 0.0

    def timed(*given: object, **named: object) -> object:
        nonlocal running, began
        finish(device)
        with lock:
            began = began if running else time.perf_counter()
            running += 1
        try:
            found = original(*given, **named)
            finish(device)
            return found
        finally:
            with lock:
                running -= 1
                spent[name] += 0.0 if running else time.perf_counter() - began

    return timed


def _ways(subject: Subject, ways: dict[str, Sampling], device: torch.device) -> Iterator[tuple[Way, np.ndarray]]:
    pipeline = load_pipeline(subject.model, device).pipeline
    sound = synthesise_voice([0, 9], 10) if subject.audio is None else read_sound(subject.audio)
    sound = sound.astype(np.float32)
    portrait, drive = from_files(pipeline, subject.portrait, sound)
    full: tuple[float, np.ndarray] | None = None
    for name, sampling in [*ways.items(), *([(COMPILED, next(iter(ways.values())))] if subject.compiled else [])]:
        start = time.perf_counter()
        if name == COMPILED:
            pipeline.backbone.compile(fullgraph=True, dynamic=False)
            pipeline(portrait, replace(drive, speed=drive.speed[:1]), replace(sampling, steps=1))
        ready = time.perf_counter()
        frames = pipeline(portrait, drive, sampling)
        took = time.perf_counter() - ready
        before, frames_before = full or (took, frames)
        faces, follows = _seen(frames, sound)
        error = float(np.mean((frames.astype(np.float32) - frames_before) ** 2))
        yield (
            Way(
                name=name,
                seconds=took,
                times_faster=before / took,
                faces=faces,
                mouth_follows_voice=follows,
                seconds_before=ready - start,
                psnr=None if full is None or error == 0 else 10 * float(np.log10(255**2 / error)),
            ),
            frames,
        )
        full = full or (took, frames)


def _seen(frames: np.ndarray, sound: np.ndarray) -> tuple[float, float | None]:
    """In what share of the frames a face is found, and how its mouth goes with the sound."""
    mouth = np.full((len(frames), len(MOUTH), 3), np.nan, np.float32)
    with FaceTracker() as tracker:
        for number, frame in enumerate(frames):
            face = tracker.track(frame).face
            if face is not None:
                mouth[number] = face.landmarks[MOUTH]
    found = float(np.isfinite(mouth[:, 0, 0]).mean())
    follows = mouth_sound_correlation(mouth_opening(mouth), sound, FPS)
    return found, follows if np.isfinite(follows) else None
