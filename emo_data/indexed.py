"""What is indexed like an array and is none: too long to be in memory at once."""

from typing import Protocol

import numpy as np


class ByFrame(Protocol):
    """Values whose first axis is frames, by frame numbers."""

    def __len__(self) -> int: ...

    def __getitem__(self, numbers: np.ndarray, /) -> np.ndarray: ...


class ByTime(Protocol):
    """A sound at 16 kHz, float32 (S,), by slices."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> np.ndarray: ...
