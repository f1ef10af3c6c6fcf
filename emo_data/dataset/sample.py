"""The samples that a stage learns from: a few windows of one clip, read in one go and only as far as the stage needs.

Legend: W windows, N motion frames before the F generated ones, L audio layers, D audio feature width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from emo_data.dataset.index import ClipIndex
from emo_data.dataset.order import Read
from emo_data.dataset.window import draw_window, region_of, surroundings
from emo_data.errors import UserError
from emo_data.video import decode_clip

VERSION = 2
"""Rises with every change of what a sample of the same clip is. 2: it has the whole clip's region."""
Frames = Callable[[int, np.ndarray], np.ndarray]
"""(clip, frame numbers ascending) -> what a model learns from in place of pictures."""


@dataclass(frozen=True)
class Wants:
    """What the samples of a stage hold."""

    frames: int
    before: int
    margin: int
    listening: bool
    speed: bool
    seed: tuple[int, ...]
    latents: Frames | None
    """None: pictures are decoded."""


class Origin(NamedTuple):
    """Where a sample comes from: a clip's number in the index, the first generated frame, the reference's frame."""

    clip: int
    start: int
    reference: int


Samples = dict[str, Any]
"""origins: list of W · steps: range · lane: int · run: (W, N + F, ...) and reference: (W, ...), both
uint8 pictures (..., S, S, 3) or float16 latents (..., C, H, W) · box: float32 (W, F, 4) in 0-1, NaN where no face was
found · region: float32 (W, 4), of the whole clip, see `region_of` · audio: float16 (W, F, 2m + 1, L, D) where the stage
listens · speed: float32 (W, F, 2m + 1) degrees per frame where it needs that."""


def read_samples(index: ClipIndex, wants: Wants, read: Read) -> Samples:
    """The windows of one reading of a clip, one for each of its steps; each is drawn from (seed, step, lane) alone.

    Raises UserError where the clip holds what cannot be learnt from.
    """
    columns = ["box"] + ["audio_features"] * wants.listening + ["speed"] * wants.speed
    row = index.read(read.clip, columns + ["video"] * (wants.latents is None))
    rngs = [np.random.default_rng([*wants.seed, step, read.lane, 3]) for step in read.steps]
    length = len(row["box"])
    windows = [draw_window(rng, length, wants.frames, wants.before) for rng in rngs]
    runs = np.stack([np.arange(w.start - wants.before, w.start + wants.frames) for w in windows])
    shown = np.concatenate([runs, [[w.reference] for w in windows]], axis=1)
    wanted, places = np.unique(shown, return_inverse=True)
    pictures = decode_clip(row["video"], wanted) if wants.latents is None else wants.latents(read.clip, wanted)
    seen = pictures[places.reshape(shown.shape)]
    samples: Samples = {
        "origins": [Origin(read.clip, w.start, w.reference) for w in windows],
        "steps": read.steps,
        "lane": read.lane,
        "run": seen[:, :-1],
        "reference": seen[:, -1],
        "box": np.stack([row["box"][w.start : w.start + wants.frames] for w in windows]),
        "region": np.tile(region_of(row["box"]), (len(windows), 1)),
    }
    if wants.listening:
        audio = row["audio_features"].reshape(length, -1, index.extractor.width)
        if not np.isfinite(audio).all():
            raise UserError(f"{index.name(read.clip)}: its audio features are not all numbers; ingest it again")
        samples["audio"] = np.stack([surroundings(audio, w.start, wants.frames, wants.margin) for w in windows])
    if wants.speed:
        speed = known_speed(row["speed"])
        samples["speed"] = np.stack([surroundings(speed, w.start, wants.frames, wants.margin) for w in windows])
    return samples


def known_speed(speed: np.ndarray) -> np.ndarray:
    """Speeds (F,) with the clip's mean where no face was found."""
    known = np.isfinite(speed)
    return np.where(known, speed, speed[known].mean() if known.any() else 0).astype(np.float32)
