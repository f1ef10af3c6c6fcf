"""The face alone: where it was, how large and how turned is taken out, of its picture and of its landmarks.

Legend: N frames with a face, P landmarks.
"""

import numpy as np

from emo_core.evaluation.block import Block
from emo_data.features.pose import RIGID, fit_face

_EYES = ((33, 133), (263, 362))
_REST = (1, 61, 291)


def aligned(block: Block, target: np.ndarray, size: int) -> np.ndarray:
    """uint8 (N, size, size, 3), at least one face: turned and scaled by the least squares of five points.

    target: (5, 2) pixels, where the eyes, the tip of the nose and the corners of the mouth shall be, left before right
    as seen.
    """
    import cv2

    pictures = []
    for at in block.faces:
        points = block.landmarks[at, :, :2].astype(np.float64)
        five = np.stack([*(points[list(pair)].mean(axis=0) for pair in _EYES), *points[list(_REST)]])
        pictures.append(cv2.warpAffine(block.pictures[at], _similarity(five, target), (size, size)))
    return np.stack(pictures)


def _similarity(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(2, 3): the turn, scale and shift that bring points (5, 2) nearest to the target (5, 2)."""
    a, b = (side - side.mean(axis=0) for side in (points, target))
    x, y = (a * b).sum(), (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()
    turn = np.array([[x, -y], [y, x]]) / (a**2).sum()
    return np.column_stack([turn, target.mean(axis=0) - turn @ points.mean(axis=0)])


def upright(landmarks: np.ndarray, points: np.ndarray | slice = slice(None)) -> np.ndarray:
    """(N, 478, 3) pixels -> float64 (N, P, 3) of those points, in face heights from the nose's bridge, as if the head
    looked straight at the viewer."""
    pose = fit_face(landmarks[:, RIGID])
    away = landmarks[:, points].astype(np.float64) - landmarks[:, 6, None].astype(np.float64)
    return np.einsum("nij,nki->nkj", pose.rotation, away) / pose.scale[:, None, None]
