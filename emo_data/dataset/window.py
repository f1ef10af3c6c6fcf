"""Which frames a sample shows, and what surrounds each of them."""

from dataclasses import dataclass

import numpy as np


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


def surroundings(values: np.ndarray, start: int, frames: int, margin: int) -> np.ndarray:
    """values (N, ...) -> (frames, 2 * margin + 1, ...): each frame with its neighbours, edges clamped (EMO 3.2.2)."""
    centre = np.arange(start, start + frames)[:, None]
    around = centre + np.arange(-margin, margin + 1)[None]
    return values[np.clip(around, 0, len(values) - 1)]


def region_mask(boxes: np.ndarray, size: int, grow: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """Union of boxes (F, 4) in 0-1 as a mask, float32 (1, size, size) with 1 inside (EMO 3.2.5).

    grow: by how much of its width and height the union is enlarged. Frames without a face (NaN) do not count; where no
    frame has one, the mask is all ones, which is the paper's "anywhere".
    """
    known = boxes[np.isfinite(boxes).all(axis=1)]
    if not len(known):
        return np.ones((1, size, size), np.float32)
    low, high = known[:, :2].min(0), known[:, 2:].max(0)
    extra = (high - low) * np.asarray(grow) / 2
    return _filled(low - extra, high + extra, size)


def mouth_masks(boxes: np.ndarray, size: int) -> np.ndarray:
    """The lower half of the face in each frame, float32 (F, 1, size, size) with 1 inside; zero where no face was found.

    boxes: (F, 4) in 0-1. The mouth is in it, however the head turns, and the jaw that moves with it.
    """
    masks = np.zeros((len(boxes), 1, size, size), np.float32)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        if np.isfinite(x0):
            mask[:] = _filled(np.array([x0, (y0 + y1) / 2]), np.array([x1, y1]), size)
    return masks


def _filled(low: np.ndarray, high: np.ndarray, size: int) -> np.ndarray:
    """float32 (1, size, size), 1 in every pixel that the box between two corners in 0-1 touches."""
    x0, y0 = np.floor(np.clip(low, 0, 1) * size).astype(int)
    x1, y1 = np.ceil(np.clip(high, 0, 1) * size).astype(int)
    mask = np.zeros((1, size, size), np.float32)
    mask[:, y0:y1, x0:x1] = 1
    return mask
