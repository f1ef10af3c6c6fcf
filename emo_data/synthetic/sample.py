"""The offline sample: clips of several looks and voices, held-out ones, and the truth about every frame."""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from emo_data.errors import UserError
from emo_data.film import encode_video
from emo_data.schema import FPS, SAMPLE_RATE
from emo_data.synthetic.cast import write_trial_of
from emo_data.synthetic.head import Head
from emo_data.synthetic.look import LOOKS, Look, looks_of
from emo_data.synthetic.motion import head_motion
from emo_data.synthetic.voice import FULL_LOUDNESS, synthesise_speech

SPEEDS = (0.2, 1.5)
"""Degrees per frame: mean head speeds of the calmest and the liveliest clip."""
MOST_LOOKS = 1000
OPEN_MOUTH = 0.18
"""Lip distance over the face height at rest at full loudness."""
_INERTIA = (0.25, 0.5, 0.25)
"""The jaw follows the loudness of a frame and a little of its neighbours'."""
VERSION = 2
"""Rises with every change of what the same seed gives."""

_TRAINING, _HELD_OUT = 0, 1
_WRITTEN = {"clips", "held_out", "truth.json", "sample.json"}


class Clip(NamedTuple):
    """Legend: F frames at FPS, N pixels per side, S sound samples at SAMPLE_RATE."""

    frames: np.ndarray  # uint8 (F, N, N, 3), RGB
    sound: np.ndarray  # float32 (S,)
    box: np.ndarray  # float64 (F, 4), x0 y0 x1 y1 in 0-1
    rotation: np.ndarray  # float64 (F, 3), yaw, pitch, roll in degrees
    mouth_opening: np.ndarray  # float64 (F,), lip distance over face height


def render_clip(head: Head, seed: int | Sequence[int], seconds: float, speed: float) -> Clip:
    """`head` turning at a mean of `speed` degrees per frame while its mouth follows the voice of `seed`."""
    count = round(seconds * FPS)
    speech = synthesise_speech(seed, count / FPS, FPS)
    rotation = head_motion(seed, count, speed)
    loudness = np.pad(frame_loudness(speech.sound), 1, mode="edge")
    opening = OPEN_MOUTH / FULL_LOUDNESS * np.convolve(loudness, _INERTIA, mode="valid")
    views = [head.render(*frame) for frame in zip(rotation, opening, speech.rounding, strict=True)]
    return Clip(
        frames=np.stack([view.picture for view in views]),
        sound=speech.sound,
        box=np.stack([view.box for view in views]),
        rotation=rotation,
        mouth_opening=np.array([view.mouth_opening for view in views]),
    )


def frame_loudness(sound: np.ndarray) -> np.ndarray:
    """(F,) root mean square of the SAMPLE_RATE / FPS samples that sound during each frame."""
    return np.sqrt((sound.reshape(-1, SAMPLE_RATE // FPS).astype(np.float64) ** 2).mean(1))


def write_sample(
    folder: Path,
    *,
    clips: int,
    seconds: float,
    seed: int,
    looks: int = len(LOOKS),
    size: int = 256,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Fill `folder` with clips/, held_out/ and truth.json; it appears whole or not at all.

    The clips take turns among the first `looks` identities. truth.json holds, for each mp4, identity, fps, box,
    rotation and mouth_opening of every frame; sample.json holds the parameters, and a sample with the same ones is left
    as it is. on_progress receives clips done and clips in all.
    UserError for impossible parameters, or where `folder` holds anything but an earlier sample.
    """
    folder = Path(folder).resolve()
    parameters = {"version": VERSION, "clips": clips, "seconds": seconds, "seed": seed, "looks": looks, "size": size}
    _check(folder, clips, seconds, seed, looks, size)
    if _parameters_of(folder) == parameters:
        return
    partial, earlier = (folder.parent / f".{folder.name}.{state}" for state in ("partial", "earlier"))
    for leftover in (partial, earlier):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        _make_folder(partial)
        _fill(partial, clips, seconds, seed, looks_of(looks), size, on_progress)
        (partial / "sample.json").write_text(json.dumps(parameters))
        if folder.exists():
            folder.rename(earlier)
        partial.rename(folder)
    finally:
        for leftover in (partial, earlier):
            shutil.rmtree(leftover, ignore_errors=True)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{folder.parent}: no sample can be written here ({error.strerror})") from error


def _check(folder: Path, clips: int, seconds: float, seed: int, looks: int, size: int) -> None:
    if clips < 1:
        raise UserError(f"--clips {clips}: at least 1")
    if not 1 <= seconds < math.inf:
        raise UserError(f"--seconds {seconds}: at least 1")
    if seed < 0:
        raise UserError(f"--seed {seed}: 0 or more")
    if not 1 <= looks <= MOST_LOOKS:
        raise UserError(f"--looks {looks}: 1 to {MOST_LOOKS}")
    if size < 64 or size % 2:
        raise UserError(f"size {size}: an even number of pixels, at least 64")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; name a folder for the sample")
    present = {entry.name for entry in folder.iterdir()} if folder.exists() else set()
    if present and (_parameters_of(folder) is None or present - _WRITTEN):
        raise UserError(f"{folder}: holds something other than an earlier sample; name a new or empty folder")


def _parameters_of(folder: Path) -> dict[str, object] | None:
    """What an earlier finished sample in `folder` was made with, or None."""
    try:
        parameters = json.loads((folder / "sample.json").read_text())
    except (OSError, ValueError):
        return None
    return parameters if isinstance(parameters, dict) and "version" in parameters else None


def _fill(
    folder: Path,
    clips: int,
    seconds: float,
    seed: int,
    looks: Sequence[Look],
    size: int,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    held_out = max(2, clips // 10)
    plan = [("clips", _TRAINING, index) for index in range(clips)]
    plan += [("held_out", _HELD_OUT, index) for index in range(held_out)]
    heads: dict[str, Head] = {}
    truth: dict[str, dict[str, object]] = {}
    for done, (part, stream, index) in enumerate(plan):
        look = looks[index % len(looks)]
        if look.name not in heads:
            heads[look.name] = Head(look, size)
        head = heads[look.name]
        name = f"{part}/{look.name}_{index:03d}.mp4"
        clip_seed = [seed, stream, index]
        clip = render_clip(head, clip_seed, seconds, _speed(clip_seed))
        (folder / part).mkdir(parents=True, exist_ok=True)
        encode_video(folder / name, clip.frames, FPS, clip.sound, SAMPLE_RATE)
        truth[name] = {
            "identity": look.name,
            "fps": FPS,
            "seed": clip_seed,
            "box": clip.box.round(5).tolist(),
            "rotation": clip.rotation.round(4).tolist(),
            "mouth_opening": clip.mouth_opening.round(5).tolist(),
        }
        if on_progress is not None:
            on_progress(done + 1, len(plan))
    (folder / "truth.json").write_text(json.dumps(truth))
    write_trial_of(heads[looks[0].name], folder / "held_out", seed, 20)


def _speed(seed: Sequence[int]) -> float:
    """Mean head speed of a clip, degrees per frame: as often calm as lively, in equal ratios."""
    calm, lively = SPEEDS
    draw = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2,))).random()
    return float(calm * (lively / calm) ** draw)
