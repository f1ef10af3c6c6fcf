"""Who is seen: one vector per frame, whose cosine with the reference portrait's is F-SIM (EMO 4.2).

Legend: N frames with a face, D width.
"""

from dataclasses import dataclass

import numpy as np

from emo_core.evaluation.block import Block
from emo_core.evaluation.weights import Net
from emo_data.features.pose import CANONICAL, RIGID, fit_pose

_FIVE = np.array([(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)])
"""Where ArcFace wants the eyes, the tip of the nose and the corners of the mouth, in a picture of 112 x 112."""
_EYES = ((33, 133), (263, 362))
_REST = (1, 61, 291)


@dataclass(frozen=True)
class FaceGeometry:
    """Offline: how the head's rigid points lie, with its pose taken out, against a canonical face. No recognition."""

    name: str = "offline-face-geometry"
    standard: bool = False
    net: None = None

    def features(self, block: Block) -> np.ndarray:
        """(N, 105): offsets of the points that neither speech nor expression moves, in face heights."""
        height, width = block.pictures.shape[1:3]
        rigid = block.landmarks[block.faces][:, RIGID].astype(np.float64)
        pose = fit_pose(rigid, width, height)
        shape = np.einsum("nij,nki->nkj", pose.rotation, rigid - rigid[:, RIGID == 6]) / pose.scale[:, None, None]
        return (shape - CANONICAL).reshape(len(shape), -1)


@dataclass(frozen=True)
class FaceRecognition:
    """A network in ArcFace's manner: float32 (N, 3, 112, 112), RGB in -1..1, five points aligned -> (N, D)."""

    net: Net
    name: str = "arcface"
    standard: bool = True

    def features(self, block: Block) -> np.ndarray:
        """(N, D)."""
        faces = aligned(block, size=112)
        return self.net((faces.transpose(0, 3, 1, 2).astype(np.float32) - 127.5) / 127.5)


def aligned(block: Block, size: int, face: float = 1.0) -> np.ndarray:
    """uint8 (N, size, size, 3), at least one face: turned and scaled by the least squares of five points.

    face: 1 for ArcFace's picture; less shows the face smaller, with more around it.
    """
    import cv2

    target = (_FIVE / 112 - 0.5) * face * size + size / 2
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


def similarity(rows: np.ndarray, reference: np.ndarray) -> float:
    """F-SIM of a video in percent: the mean over its frames (N, D) of the cosine with the reference (D,)."""
    rows, reference = rows.astype(np.float64), reference.astype(np.float64)
    cosines = rows @ reference / np.maximum(np.linalg.norm(rows, axis=1) * np.linalg.norm(reference), 1e-12)
    return float(100 * cosines.mean())
