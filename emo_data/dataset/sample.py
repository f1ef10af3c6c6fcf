"""The numbers of one clip that training reads, and the samples made of them. Pictures are read apart, as latents."""

from dataclasses import dataclass

import numpy as np

from emo_data.dataset.window import Window, region_mask, surroundings


@dataclass(frozen=True)
class Clip:
    """One row without its video. F frames."""

    clip_id: str
    box: np.ndarray
    """float32 (F, 4) in 0-1; NaN where no face was found."""
    speed: np.ndarray
    """float32 (F,) degrees per frame; NaN where no face was found."""
    audio: np.ndarray | None
    """float16 (F, L, D); None where the stage does not listen."""

    @property
    def frames(self) -> int:
        """F."""
        return len(self.box)


@dataclass(frozen=True)
class Sample:
    """One training example. Its latents are looked up by its window; the rest is here."""

    mask: np.ndarray
    """float32 (1, size, size)."""
    audio: np.ndarray | None
    """float16 (F, 2m + 1, L, D)."""
    speed: np.ndarray
    """float32 (F, 2m + 1) degrees per frame."""


def make_sample(
    clip: Clip, window: Window, *, frames: int, margin: int, size: int, grow: tuple[float, float]
) -> Sample:
    """The sample of a window. grow: enlargement of the mask, see `region_mask`."""
    speed = np.nan_to_num(clip.speed, nan=float(np.nanmean(clip.speed)) if np.isfinite(clip.speed).any() else 0.0)
    return Sample(
        mask=region_mask(clip.box[window.start : window.start + frames], size, grow),
        audio=None if clip.audio is None else surroundings(clip.audio, window.start, frames, margin),
        speed=surroundings(speed, window.start, frames, margin),
    )
