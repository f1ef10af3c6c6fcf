"""Who is seen: one vector per frame, whose cosine with the reference portrait's is F-SIM (EMO 4.2).

Legend: N frames with a face, D width.
"""

from dataclasses import dataclass

import numpy as np

from emo_core.evaluation.alignment import aligned, upright
from emo_core.evaluation.block import Block
from emo_core.evaluation.weights import Net
from emo_data.features.pose import CANONICAL, RIGID

ARCFACE = np.array([(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)])
"""Where ArcFace wants the eyes, the tip of the nose and the corners of the mouth, in a picture of 112 x 112."""


@dataclass(frozen=True)
class FaceGeometry:
    """Offline: how the head's rigid points lie, with its pose taken out, against a canonical face. No recognition."""

    name: str = "offline-face-geometry"
    standard: bool = False
    net: None = None

    def features(self, block: Block) -> np.ndarray:
        """(N, 105): offsets of the points that neither speech nor expression moves, in face heights."""
        shape = upright(block.landmarks[block.faces], RIGID)
        return (shape - CANONICAL).reshape(len(shape), -1)


@dataclass(frozen=True)
class FaceRecognition:
    """A network in ArcFace's manner: float32 (N, 3, 112, 112), RGB in -1..1, five points aligned -> (N, D)."""

    net: Net
    name: str = "arcface"
    standard: bool = True

    def features(self, block: Block) -> np.ndarray:
        """(N, D)."""
        faces = aligned(block, ARCFACE, 112)
        return self.net((faces.transpose(0, 3, 1, 2).astype(np.float32) - 127.5) / 127.5)


def similarity(rows: np.ndarray, reference: np.ndarray) -> float:
    """F-SIM of a video in percent: the mean over its frames (N, D) of the cosine with the reference (D,)."""
    rows, reference = rows.astype(np.float64), reference.astype(np.float64)
    cosines = rows @ reference / np.maximum(np.linalg.norm(rows, axis=1) * np.linalg.norm(reference), 1e-12)
    return float(100 * cosines.mean())
