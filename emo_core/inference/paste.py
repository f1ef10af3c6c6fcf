"""The moving face, back in the picture that it was cut out of."""

import cv2
import numpy as np

from emo_data.features.framing import Square

LONGEST = 1920
"""Pixels of the longer side of a video; larger pictures are made smaller."""
FEATHER = 0.08
"""Of the square's side: over so much of it, on every edge, the still picture becomes the moving one."""


class Paste:
    """Puts frames into a picture, uint8 (H, W, 3), where `square` (pixels of it) was cut out."""

    def __init__(self, picture: np.ndarray, square: Square) -> None:
        scale = min(1.0, LONGEST / max(picture.shape[:2]))
        width, height = (max(2, int(side * scale) // 2 * 2) for side in picture.shape[1::-1])  # even, for the encoder
        self._picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        x, y, self._side = (round(number * scale) for number in (square.x, square.y, square.side))
        self._rows, self._from_rows = _overlap(y, self._side, height)
        self._columns, self._from_columns = _overlap(x, self._side, width)
        inside = np.minimum(np.arange(self._side), np.arange(self._side)[::-1]) / (FEATHER * self._side)
        share = np.clip(np.minimum(inside[:, None], inside[None]), 0, 1)[..., None].astype(np.float32)
        self._share = share[self._from_rows, self._from_columns]

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """uint8 (pixels, pixels, 3) -> (height, width, 3)."""
        moving = cv2.resize(frame, (self._side, self._side), interpolation=cv2.INTER_CUBIC)
        moving = moving[self._from_rows, self._from_columns]
        shown = self._picture.copy()
        still = shown[self._rows, self._columns]
        shown[self._rows, self._columns] = (still + self._share * (moving.astype(np.float32) - still)).round()
        return shown


def _overlap(start: int, side: int, limit: int) -> tuple[slice, slice]:
    """The part of an interval that lies in 0..limit: there, and in its own numbers."""
    low, high = max(start, 0), min(start + side, limit)
    return slice(low, high), slice(low - start, high - start)
