"""What a face expresses, as a few parameters per frame (EMO 4.2: E-FID is the Fréchet distance of these).

Legend: N frames with a face.
"""

from dataclasses import dataclass

import numpy as np

from emo_core.evaluation.alignment import aligned, upright
from emo_core.evaluation.block import Block
from emo_core.evaluation.weights import Net

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
DEEP3D = np.array([(80, 82), (144, 82), (112, 117), (86, 151), (137, 151)])
"""Where the eyes, the tip of the nose and the corners of the mouth of a face seen from the front are in the pictures of
224 x 224 that Deng et al.'s network was trained on (by their alignment, 102 pixels to a unit of their model)."""


@dataclass(frozen=True)
class LandmarkExpression:
    """Offline: 18 distances in the face's own frame, percent of its height. No 3DMM: identity is in them, too."""

    name: str = "offline-landmark-distances"
    standard: bool = False
    net: None = None

    def features(self, block: Block) -> np.ndarray:
        """(N, 18)."""
        return expression(block.landmarks[block.faces])


def expression(landmarks: np.ndarray) -> np.ndarray:
    """(N, 478, 3) pixels -> float64 (N, 18) in percent of the face's height.

    The head's rotation, place and size are taken out by its rigid points.
    """
    points = upright(landmarks)
    apart = [np.linalg.norm(points[:, a] - points[:, b], axis=1) for a, b in DISTANCES.values()]
    forward = [-(points[:, a, 2] + points[:, b, 2]) / 2 for a, b in FORWARD.values()]
    return 100 * np.stack([*apart, *forward], axis=1)


@dataclass(frozen=True)
class FaceReconstruction:
    """Deng et al. (2019), which the paper names: 257 coefficients, of which 80 to 143 are the expression.

    Input float32 (N, 3, 224, 224), RGB in 0-1. Not in the paper: five points in the picture align the face, which turns
    it upright, too; the authors' code fits five points of their 3D model, and only scales and shifts.
    """

    net: Net
    name: str = "deep3d-expression-64"
    standard: bool = True

    def features(self, block: Block) -> np.ndarray:
        """(N, 64)."""
        faces = aligned(block, DEEP3D, 224)
        return self.net(faces.transpose(0, 3, 1, 2).astype(np.float32) / 255, width=257)[:, 80:144]
