"""What the paper claims, as numbers of videos that a model has made: does the voice drive the mouth, and so on.

Legend: V videos, F frames, S samples at 16 kHz, H W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from emo_core.evaluation.alignment import aligned
from emo_core.evaluation.block import Block
from emo_core.evaluation.identity import ARCFACE
from emo_core.evaluation.motion import speeds
from emo_core.evaluation.watch import blocks_of
from emo_core.inference.preprocess import Choice, frame_portrait
from emo_data.features.faces import find_faces
from emo_data.features.pose import MOUTH, RIGID, mouth_opening
from emo_data.features.quality import loudness_per_frame
from emo_data.schema import FPS
from emo_data.sound import sound_between
from emo_data.video import probe

LIPS = np.array([61, 291, 0, 17])
"""Corners, top and bottom."""
ROOM = 2.0
"""The mouth's region is the lips' box, so many times as large."""
RUN = 2 * FPS
"""Frames that are drawn together for an interval: neighbours are no new evidence."""
DRAWS = 2000
FACE_SIDE = 32
"""Pixels of the aligned face that tells who it is."""
FACE = ARCFACE / 112 * FACE_SIDE
"""Where its five points are."""


@dataclass(frozen=True)
class Film:
    """A whole video in memory. pictures uint8 (F, H, W, 3); landmarks (F, 478, 3) in pixels, NaN without a face; sound
    float32 (S,)."""

    pictures: np.ndarray
    landmarks: np.ndarray
    sound: np.ndarray

    @property
    def speed(self) -> np.ndarray:
        """float32 (F,) degrees per frame, smoothed as in ingestion."""
        return speeds(self.landmarks[:, RIGID], self.pictures.shape[2], self.pictures.shape[1])

    @property
    def opening(self) -> np.ndarray:
        """(F,) inner lips' distance over the face's height."""
        return mouth_opening(self.landmarks[:, MOUTH])

    @property
    def loudness(self) -> np.ndarray:
        """(F,) root mean square of what sounds around each frame."""
        return loudness_per_frame(self.sound, len(self.pictures), FPS)

    @property
    def faces(self) -> float:
        """The share of frames that show one."""
        return float(np.isfinite(self.landmarks[:, 0, 0]).mean())


def film_of(path: Path) -> Film:
    """Read a short video of ours."""
    info = probe(path)
    grid = info.at_rate(FPS)
    blocks = list(blocks_of(info, grid, "pyav", tracks_faces=True))
    return Film(
        np.concatenate([block.pictures[block.before :] for block in blocks]),
        np.concatenate([block.landmarks[block.before :] for block in blocks]),
        sound_between(path, float(info.times[0]), len(grid) / FPS),
    )


def film_of_portrait(path: Path, size: int) -> Film:
    """A portrait as the model is shown it, as a film of one frame without sound."""
    framed = frame_portrait(path, size, "all", Choice()).portrait.picture
    picture = ((framed + 1) * 127.5).round().to(torch.uint8).movedim(0, -1).numpy()
    face = find_faces(picture)[0]
    return Film(picture[None], face.landmarks[None], np.zeros(0, np.float32))


@dataclass(frozen=True)
class VoiceAndMouth:
    """Pearson's r at lag 0, pooled over videos, of the mouth with its own voice and, less, with the others'.

    Intervals hold 95 %: voices are drawn again, and from each runs of two seconds."""

    own: float
    """Pooled."""
    own_interval: tuple[float, float]
    own_less_other: float
    own_less_other_interval: tuple[float, float]
    each: tuple[float, ...]
    """Of every video with its own voice."""
    frames: tuple[int, ...]
    """That show a face, of every video."""
    draws: np.ndarray
    """Of `own`."""


def voice_and_mouth(openings: np.ndarray, loudness: np.ndarray) -> VoiceAndMouth:
    """openings (V, F), NaN without a face; loudness (V, F), both of V videos with different voices.

    Not in the paper: the measure. Each video's mean is taken out first: one mouth may be wider than another.
    """
    videos, frames = openings.shape
    known = np.isfinite(openings)
    mouth = _centred(openings, known)
    starts = range(0, frames, RUN)
    sums = np.zeros((videos, 3, videos, len(starts)))  # shift of the voices; xy, xx, yy; video; run
    for shift in range(videos):
        heard = _centred(np.roll(loudness, shift, axis=0), known)
        for place, product in enumerate((mouth * heard, mouth**2, heard**2)):
            sums[shift, place] = np.add.reduceat(product, starts, axis=1)
    rng = np.random.default_rng(0)
    drawn = rng.integers(videos, size=(DRAWS, videos, 1)), rng.integers(len(starts), size=(DRAWS, videos, len(starts)))
    again, found = _pearson(sums[:, :, *drawn].sum(axis=(-1, -2))), _pearson(sums.sum(axis=(-1, -2)))
    return VoiceAndMouth(
        own=float(found[0]),
        own_interval=_interval(again[0]),
        own_less_other=_less_others(found).item(),
        own_less_other_interval=_interval(_less_others(again)),
        each=tuple(_pearson(sums[0].sum(axis=-1)[None])[0].tolist()),
        frames=tuple(known.sum(axis=1).tolist()),
        draws=again[0],
    )


def _less_others(found: np.ndarray) -> np.ndarray:
    """(shifts, ...) -> (...): the own voice's less the mean of the others'; NaN where there is one voice."""
    return found[0] - found[1:].mean(axis=0) if len(found) > 1 else np.full(found.shape[1:], np.nan)


def _centred(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(V, F): less each video's mean over the frames that are known, zero in the others."""
    counts = np.maximum(known.sum(axis=1, keepdims=True), 1)
    return np.where(known, values - np.where(known, values, 0).sum(axis=1, keepdims=True) / counts, 0)


def _pearson(sums: np.ndarray) -> np.ndarray:
    """(shifts, 3, ...) sums of xy, xx, yy -> (shifts, ...); NaN where nothing varies."""
    xy, xx, yy = np.moveaxis(sums, 1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return xy / np.sqrt(xx * yy)


def _interval(draws: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(draws, [2.5, 97.5]).tolist()
    return low, high


def difference_interval(one: VoiceAndMouth, other: VoiceAndMouth) -> tuple[float, float]:
    """95 % of `one.own - other.own`, over the same draws of both. ValueError where they are not of as many videos."""
    if len(one.frames) != len(other.frames):
        raise ValueError(f"{len(one.frames)} videos here, {len(other.frames)} there: their draws are not the same")
    return _interval(one.draws - other.draws)


def change(one: Film, other: Film) -> np.ndarray:
    """float64 (H, W): the mean absolute difference of two videos of one portrait, over frames and colours."""
    frames = min(len(one.pictures), len(other.pictures))
    return np.abs(one.pictures[:frames].astype(np.int16) - other.pictures[:frames]).mean(axis=(0, 3))


def mouth_over_rest(one: Film, other: Film) -> float:
    """How much more two videos differ around the lips than in the rest of the face. NaN where they show none."""
    sums = np.zeros((2, 2))
    for at in range(min(len(one.pictures), len(other.pictures))):
        marks = [film.landmarks[at, :, :2] for film in (one, other)]
        if not np.isfinite(marks).all():
            continue
        difference = np.abs(one.pictures[at].astype(np.int16) - other.pictures[at]).mean(axis=-1)
        mouth = _box(np.concatenate([points[LIPS] for points in marks]), ROOM, difference.shape)
        face = hull(marks[0], difference.shape) | hull(marks[1], difference.shape)
        for place, region in enumerate((mouth, face & ~mouth)):
            sums[place] += difference[region].sum(), region.sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums[:, 0] / sums[:, 1]
        return float(mean[0] / mean[1])


def hull(points: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """bool (H, W): what lies inside the outermost of points (N, 2)."""
    import cv2

    region = np.zeros(shape[:2], np.uint8)
    cv2.fillConvexPoly(region, cv2.convexHull(points.round().astype(np.int32)), 1)
    return region.astype(bool)


def _box(points: np.ndarray, room: float, shape: tuple[int, ...]) -> np.ndarray:
    """bool (H, W): the box around points (N, 2), `room` times as large."""
    low, high = points.min(axis=0), points.max(axis=0)
    middle, half = (low + high) / 2, (high - low) / 2 * room
    region = np.zeros(shape, bool)
    (x0, y0), (x1, y1) = (middle - half).clip(0).round().astype(int), (middle + half).clip(0).round().astype(int)
    region[y0:y1, x0:x1] = True
    return region


def joins_over_inside(film: Film, clip_frames: int) -> float:
    """How much rougher a video is where two clips meet than inside them: medians of neighbouring frames' difference.
    NaN where nothing moves."""
    moved = np.abs(np.diff(film.pictures.astype(np.int16), axis=0)).mean(axis=(1, 2, 3))
    is_join = np.arange(1, len(film.pictures)) % clip_frames == 0
    inside = float(np.median(moved[~is_join]))
    return float(np.median(moved[is_join])) / inside if inside else float("nan")


def nearest(film: Film, references: Sequence[Film]) -> tuple[np.ndarray, np.ndarray]:
    """Who each frame looks most like: int (n,) of `references`, and the distances (n, R), over the frames with a face,
    of which there may be none. Every reference shows one.

    Not in the paper: faces are cut out along their outline, aligned by five points and compared in colours, for the
    people of the sample differ in shape and skin. It is no recognition, and knows neither hair nor what is behind.
    """
    faces = _faces(film)
    known = np.stack([_faces(reference)[0] for reference in references])
    distances = np.sqrt(((faces[:, None] - known[None]) ** 2).mean(axis=-1))
    return distances.argmin(axis=1), distances


def _faces(film: Film) -> np.ndarray:
    """float64 (n, D)."""
    known = np.isfinite(film.landmarks[:, 0, 0])
    if not known.any():
        return np.zeros((0, FACE_SIDE * FACE_SIDE * 3))
    marks = film.landmarks[known]
    inside = np.stack([hull(points[:, :2], film.pictures.shape[1:3]) for points in marks])
    block = Block(film.pictures[known] * inside[..., None], marks, np.ones(len(marks), bool), 0)
    return aligned(block, FACE, FACE_SIDE).reshape(len(marks), -1).astype(np.float64)
