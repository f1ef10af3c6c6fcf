"""What a face expresses, as a few parameters per frame (EMO 4.2: E-FID is the Fréchet distance of these).

Legend: N frames with a face.
"""

from dataclasses import dataclass

import numpy as np

from emo_core.evaluation.block import Block
from emo_core.evaluation.identity import aligned
from emo_core.evaluation.weights import Net
from emo_data.features.pose import RIGID, fit_pose

DISTANCES = {
    "lips apart": (13, 14),
    "lips apart, left": (82, 87),
    "lips apart, right": (312, 317),
    "mouth width": (61, 291),
    "upper lip to nose": (0, 2),
    "jaw": (2, 152),
    "lower lip to chin": (17, 152),
    "corner to eye, left": (61, 33),
    "corner to eye, right": (291, 263),
    "eye, left": (159, 145),
    "eye, right": (386, 374),
    "inner brow, left": (55, 133),
    "inner brow, right": (285, 362),
    "outer brow, left": (70, 33),
    "outer brow, right": (300, 263),
    "between the brows": (55, 285),
}
"""Pairs of Face Mesh landmarks; left and right as seen."""
FORWARD = {"lips forward": (0, 17), "corners forward": (61, 291)}
"""How far the middle of two landmarks stands out in front of the nose's bridge."""


@dataclass(frozen=True)
class LandmarkExpression:
    """Offline: 18 distances in the face's own frame, percent of its height. No 3DMM: identity is in them, too."""

    name: str = "offline-landmark-distances"
    standard: bool = False
    net: None = None

    def features(self, block: Block) -> np.ndarray:
        """(N, 18)."""
        height, width = block.pictures.shape[1:3]
        return expression(block.landmarks[block.faces], width, height)


def expression(landmarks: np.ndarray, width: int, height: int) -> np.ndarray:
    """(N, 478, 3) pixels -> float64 (N, 18) in percent of the face's height.

    The head's rotation, place and size are taken out by its rigid points.
    """
    points = upright(landmarks, width, height)
    apart = [np.linalg.norm(points[:, a] - points[:, b], axis=1) for a, b in DISTANCES.values()]
    forward = [-(points[:, a, 2] + points[:, b, 2]) / 2 for a, b in FORWARD.values()]
    return 100 * np.stack([*apart, *forward], axis=1)


def upright(landmarks: np.ndarray, width: int, height: int) -> np.ndarray:
    """(N, 478, 3) pixels -> (N, 478, 3) face heights from the nose's bridge, as if the head looked straight ahead."""
    pose = fit_pose(landmarks[:, RIGID], width, height)
    middle = landmarks[:, 6].astype(np.float64)
    return np.einsum("nij,nki->nkj", pose.rotation, landmarks - middle[:, None]) / pose.scale[:, None, None]


@dataclass(frozen=True)
class FaceReconstruction:
    """Deng et al. (2019), which the paper names: 257 coefficients, of which 80 to 143 are the expression.

    Input float32 (N, 3, 224, 224), RGB in 0-1. Not in the paper: the face is aligned by five points in the picture; the
    authors' code fits five points of their 3D model, which may not be handed on.
    """

    net: Net
    name: str = "deep3d-expression-64"
    standard: bool = True

    def features(self, block: Block) -> np.ndarray:
        """(N, 64)."""
        faces = aligned(block, size=224, face=0.5)
        return self.net(faces.transpose(0, 3, 1, 2).astype(np.float32) / 255, width=257)[:, 80:144]
