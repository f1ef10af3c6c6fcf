"""Which frames a sample shows, and what surrounds each of them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from emo_data.indexed import ByFrame


@dataclass(frozen=True)
class Window:
    """A run of contiguous frames of one clip, and a frame of the same clip that is its reference (EMO 4.1)."""

    start: int
    """First generated frame; the motion frames lie before it."""
    reference: int


def choices(lengths: np.ndarray, frames: int, before: int) -> np.ndarray:
    """How many windows of `frames` generated frames with `before` frames ahead of them a clip of each length has."""
    return np.maximum(lengths - frames - before + 1, 0)


def draw_window(rng: np.random.Generator, length: int, frames: int, before: int) -> Window:
    """One of a clip's windows, all of them equally likely. The reference is any other frame than its first."""
    start = before + int(rng.integers(choices(np.array(length), frames, before)))
    return Window(start, (start + 1 + int(rng.integers(length - 1))) % length if length > 1 else 0)


def surroundings(values: ByFrame, start: int, frames: int, margin: int) -> np.ndarray:
    """values (N, ...) -> (frames, 2 * margin + 1, ...): each frame with its neighbours, edges clamped (EMO 3.2.2)."""
    centre = np.arange(start, start + frames)[:, None]
    around = centre + np.arange(-margin, margin + 1)[None]
    return values[np.clip(around, 0, len(values) - 1)]


def region_of(boxes: np.ndarray) -> np.ndarray:
    """The union (4,) of the boxes (F, 4) of some frames, in 0-1: where the face may be (EMO 3.2.5).

    The paper writes of the union both over f frames and over "the entire video clip"; who calls says which. Frames
    without a face (NaN) do not count; where no frame has one, it is the whole picture, the paper's "anywhere".
    """
    known = boxes[np.isfinite(boxes).all(axis=1)]
    if not len(known):
        return np.array([0, 0, 1, 1], boxes.dtype)
    return np.concatenate([known[:, :2].min(axis=0), known[:, 2:].max(axis=0)])


def region_mask(regions: np.ndarray, size: int, grow: ArrayLike = 0.0) -> np.ndarray:
    """Finite regions (..., 4) in 0-1 as masks, float32 (..., 1, size, size) with 1 inside (EMO 3.2.5).

    grow: by how much of its width and height each is enlarged, (..., 2).
    """
    low, high = regions[..., :2], regions[..., 2:]
    extra = (high - low) * np.asarray(grow) / 2
    return _filled(low - extra, high + extra, size)


def mouth_mask(boxes: np.ndarray, size: int) -> np.ndarray:
    """The lower half of each face, float32 (..., 1, size, size) with 1 inside; zero where no face was found.

    boxes: (..., 4) in 0-1. The mouth is in it, however the head turns, and the jaw that moves with it.
    """
    x0, y0, x1, y1 = np.moveaxis(boxes, -1, 0)
    return _filled(np.stack([x0, (y0 + y1) / 2], axis=-1), np.stack([x1, y1], axis=-1), size)


def _filled(low: np.ndarray, high: np.ndarray, size: int) -> np.ndarray:
    """float32 (..., 1, size, size), 1 in every pixel that the box between two corners (..., 2) in 0-1 touches; zero
    where a corner is NaN."""
    first, last = np.floor(np.clip(low, 0, 1) * size), np.ceil(np.clip(high, 0, 1) * size)
    at = np.arange(size, dtype=np.float32)
    inside = (at >= first[..., None]) & (at < last[..., None])
    return (inside[..., None, 1, :, None] & inside[..., None, 0, None, :]).astype(np.float32)
