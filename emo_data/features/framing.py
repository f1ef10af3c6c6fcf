"""Which square of the picture a clip or a portrait shows: head and some shoulders, never following jitter.

Boxes here are x0, y0, x1, y1 in pixels of the source picture unless a name says otherwise; F frames.
"""

from dataclasses import dataclass

import numpy as np

FACE_SHARE = 0.5
"""Not in the paper: the face box is about half as high as the crop, as in the paper's figures."""
MARGIN = 1.1
"""The square is at least this much wider than all places where the face goes."""


@dataclass(frozen=True)
class Square:
    """A square region of a picture, in whole pixels; it may reach over the picture's edge."""

    x: int
    y: int
    side: int


def frame_face(boxes: np.ndarray, width: int, height: int) -> Square:
    """The one square for a whole clip, or for one portrait.

    boxes: float (F, 4) or (4,), NaN where no face was found, at least one finite. Extremes of 2 % of the frames do not
    count, so one wrong box moves nothing. The square is shifted, then shrunk, to stay inside the picture while it still
    holds the face; only a face nearer to the edge than that makes it reach over.
    """
    boxes = np.atleast_2d(np.asarray(boxes, dtype=float))
    boxes = boxes[np.isfinite(boxes).all(axis=1)]
    if not len(boxes):
        raise ValueError("frame_face needs at least one finite box")
    x0, y0 = np.percentile(boxes[:, :2], 2, axis=0)
    x1, y1 = np.percentile(boxes[:, 2:], 98, axis=0)
    face_height = float(np.median(boxes[:, 3] - boxes[:, 1]))
    needed = MARGIN * max(x1 - x0, y1 - y0)
    side = max(min(max(face_height / FACE_SHARE, needed), min(width, height)), needed)
    return Square(
        x=_place((x0 + x1) / 2, side, width),
        y=_place((y0 + y1) / 2, side, height),
        side=max(1, round(side)),
    )


def _place(centre: float, side: float, limit: int) -> int:
    """Start of an interval of length `side` around `centre`, shifted to lie in 0..limit where it can."""
    if side >= limit:
        return round((limit - side) / 2) if side - limit < 1 else round(centre - side / 2)
    return round(min(max(centre - side / 2, 0), limit - side))


def crop(picture: np.ndarray, square: Square, size: int) -> np.ndarray:
    """RGB uint8 (H, W, 3) -> (size, size, 3). What lies over the picture's edge repeats its outermost pixels."""
    import cv2

    height, width = picture.shape[:2]
    x0, y0, x1, y1 = square.x, square.y, square.x + square.side, square.y + square.side
    part = picture[max(y0, 0) : min(y1, height), max(x0, 0) : min(x1, width)]
    over = (max(-y0, 0), max(y1 - height, 0), max(-x0, 0), max(x1 - width, 0))
    if any(over):
        part = cv2.copyMakeBorder(part, *over, borderType=cv2.BORDER_REPLICATE)
    if square.side == size:
        return np.ascontiguousarray(part)
    way = cv2.INTER_AREA if square.side > size else cv2.INTER_CUBIC
    return cv2.resize(part, (size, size), interpolation=way)


def boxes_in_square(boxes: np.ndarray, square: Square) -> np.ndarray:
    """(..., 4) pixels -> float32 (..., 4) in 0-1 of the square, cut to it; NaN stays NaN."""
    origin = np.array([square.x, square.y, square.x, square.y])
    return np.clip((np.asarray(boxes, dtype=float) - origin) / square.side, 0, 1).astype(np.float32)
