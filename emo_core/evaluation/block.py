"""What every extractor is given: consecutive frames of a video and the face's landmarks, decoded and tracked once.

Legend: N frames of a block, K frames before it, H W pixels.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from emo_core.evaluation.weights import Net

FRAMES = 16
"""In a block: what FVD calls a clip. The last of a video may have fewer."""
CONTEXT = 4
"""Frames of the block before that come along, so that an extractor may look at five frames in a row."""


@dataclass(frozen=True)
class Block:
    """pictures: RGB uint8 (K + N, H, W, 3), zeros where one could not be decoded. landmarks: float32 (K + N, 478, 3) in
    pixels, NaN where no face was found. there: bool (K + N,), what was decoded. before: K."""

    pictures: np.ndarray
    landmarks: np.ndarray
    there: np.ndarray
    before: int

    @property
    def faces(self) -> np.ndarray:
        """int (n,): which of K + N are fresh and show a face."""
        known = np.isfinite(self.landmarks[:, 0, 0])
        known[: self.before] = False
        return np.flatnonzero(known)


class Extractor(Protocol):
    """Pictures in, features out.

    name says which network or formula it is, standard whether that is what the field means by the metric's name; net
    holds the weights, where there are some from a file.
    """

    @property
    def name(self) -> str: ...

    @property
    def standard(self) -> bool: ...

    @property
    def net(self) -> Net | None: ...

    def features(self, block: Block) -> np.ndarray:
        """float (rows, D); what a row is, the metric says: a frame, a frame with a face, or a whole block."""
        ...


@dataclass(frozen=True)
class SyncScore:
    """offset: frames that the sound is late. distance: None where the extractor has none (LSE-D)."""

    offset: int
    confidence: float
    distance: float | None = None


class SyncExtractor(Extractor, Protocol):
    """Its features have a row for every frame, NaN without a face; they are set against the sound at the end."""

    def judge(self, rows: np.ndarray, sound: np.ndarray) -> SyncScore:
        """rows (F, D), sound float32 (S,) at 16 kHz from the first frame on. ValueError where it cannot be judged."""
        ...
