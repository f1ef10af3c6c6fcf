"""Head pose and mouth from Face Mesh landmarks: rotation, translation, speed, opening (EMO 3.2.5 and 4.1).

Legend: F frames, N landmarks. Landmarks are pixels: x right, y down, z away from the viewer. Angles are degrees: yaw
positive turns the head to the picture's right, pitch positive looks up, roll positive is clockwise as seen. Frames
without a face are NaN in and NaN out.
"""

from dataclasses import dataclass, replace

import numpy as np

_MIDDLE = {
    10: (0.0, -0.322, 0.047),
    168: (0.0, -0.045, 0.027),
    6: (0.0, 0.000, 0.000),
    197: (0.0, 0.042, -0.031),
    195: (0.0, 0.081, -0.063),
    5: (0.0, 0.123, -0.098),
    4: (0.0, 0.176, -0.113),
    1: (0.0, 0.217, -0.100),
    2: (0.0, 0.250, 0.001),
}
_PAIRS = {
    (67, 297): (-0.214, -0.299, 0.097),
    (54, 284): (-0.358, -0.205, 0.241),
    (127, 356): (-0.419, 0.026, 0.460),
    (234, 454): (-0.417, 0.110, 0.491),
    (93, 323): (-0.413, 0.195, 0.498),
    (132, 361): (-0.402, 0.285, 0.486),
    (33, 263): (-0.276, -0.018, 0.164),
    (133, 362): (-0.106, -0.003, 0.133),
    (98, 327): (-0.124, 0.222, 0.050),
    (129, 358): (-0.144, 0.184, 0.073),
    (121, 350): (-0.115, 0.050, 0.097),
    (119, 348): (-0.205, 0.077, 0.117),
    (117, 346): (-0.321, 0.070, 0.168),
}
"""Our canonical face: the parts that neither speech nor expression moves (forehead, temples, bridge and sides of the
nose, corners of the eyes, ears), in face heights (forehead 10 to chin 152) from the nose bridge. Measured, not copied:
Face Mesh on the public-domain portrait of an astronaut in scikit-image, made symmetric; its forehead leans 6 degrees
out over its chin, for so do heads that look straight ahead."""

RIGID = np.array([*_MIDDLE, *(left for left, _ in _PAIRS), *(right for _, right in _PAIRS)])
CANONICAL = np.array(
    [*_MIDDLE.values(), *_PAIRS.values(), *((-x, y, z) for x, y, z in _PAIRS.values())],
)
_WEIGHTS = np.where(np.isin(RIGID, [10, 67, 297, 54, 284]), 0.3, 1.0)
_WEIGHTS /= _WEIGHTS.sum()
"""Not in the paper: the mesh guesses the depth of the forehead anew in each frame, three times as unsteadily as that of
the rest, and a head at rest would seem to nod."""
MOUTH = np.array([13, 14, 10, 152])
"""Inner upper and lower lip, top of the forehead, chin."""
SMOOTHING = 7
"""Frames. Mesh jitter alone reads as motion: smoothing over 7 frames takes seven eighths of it away, and leaves 0.1 to
0.15 degrees per frame of a head at rest that speaks (over 5 frames: 0.16 to 0.2)."""
_FIELD_OF_VIEW = 12.0
"""Degrees over the height of the source picture. Not in the paper: without such a guess a face that wanders across the
picture seems to turn (a swaying singer's speeds came out 1.3 times too high); wider, and turning heads count less."""


@dataclass(frozen=True)
class Pose:
    """rotation (F, 3, 3) acts on columns x, y, z; centre (F, 2) of the nose bridge and scale (F,) in pixels.

    scale is the height of the face (forehead 10 to chin 152) if it were seen from the front.
    """

    rotation: np.ndarray
    centre: np.ndarray
    scale: np.ndarray


def fit_pose(rigid: np.ndarray, width: int, height: int) -> Pose:
    """`fit_face`, with rotations against the camera's axis. rigid: pixels of a picture of width x height."""
    pose = fit_face(rigid)
    middle = np.nan_to_num(rigid[..., :2].astype(float)).mean(axis=1)
    return replace(pose, rotation=_towards_viewer(middle, width, height) @ pose.rotation)


def fit_face(rigid: np.ndarray) -> Pose:
    """Weighted least-squares similarity (Procrustes) of the canonical face to the landmarks `RIGID`, frame by frame.

    rigid: (F, len(RIGID), 3) pixels. Rotations are against the line of sight through the face, as the mesh sees it.
    """
    seen = np.isfinite(rigid).all(axis=(1, 2))
    points = np.where(seen[:, None, None], rigid, CANONICAL).astype(float)
    model_mean = _WEIGHTS @ CANONICAL
    model = CANONICAL - model_mean
    middle = _WEIGHTS @ points
    u, s, vt = np.linalg.svd(np.einsum("n,fni,nj->fij", _WEIGHTS, points - middle[:, None], model))
    sign = np.ones_like(s)
    sign[:, 2] = np.sign(np.linalg.det(u @ vt))
    rotation = (u * sign[:, None]) @ vt
    scale = (s * sign).sum(axis=1) / (_WEIGHTS @ model**2).sum()
    bridge = middle - scale[:, None] * (rotation @ model_mean)
    nothing = np.where(seen, 1.0, np.nan)
    return Pose(rotation * nothing[:, None, None], bridge[:, :2] * nothing[:, None], scale * nothing)


def _towards_viewer(middle: np.ndarray, width: int, height: int) -> np.ndarray:
    """(F, 3, 3): what turns the line of sight through the face into the camera's axis's frame."""
    from scipy.spatial.transform import Rotation

    focal = height / 2 / np.tan(np.radians(_FIELD_OF_VIEW / 2))
    x, y = ((middle - np.array([width, height]) / 2) / focal).T
    axis = np.stack([-y, x, np.zeros_like(x)], axis=1)
    length = np.linalg.norm(axis, axis=1, keepdims=True)
    return Rotation.from_rotvec(axis * np.arctan(length) / np.maximum(length, 1e-12)).as_matrix()


def to_angles(rotation: np.ndarray) -> np.ndarray:
    """(F, 3, 3) -> float32 (F, 3): yaw, pitch, roll; roll is applied after pitch after yaw."""
    from scipy.spatial.transform import Rotation

    seen = np.isfinite(rotation).all(axis=(1, 2))
    angles = np.full((len(rotation), 3), np.nan, dtype=np.float32)
    if seen.any():
        roll, pitch, yaw = Rotation.from_matrix(rotation[seen]).as_euler("ZXY", degrees=True).T
        angles[seen] = np.stack([-yaw, -pitch, roll], axis=1)
    return angles


def rotation_speed(rotation: np.ndarray, fps: float) -> np.ndarray:
    """(F, 3, 3) of one shot -> float32 (F,): degrees per frame of 25 fps since the frame before; [0] = [1] (EMO 3.2.5).

    Rotations are averaged over `SMOOTHING` frames first. Where the shot's ends or a missing face leave fewer on one
    side, the nearest speed with all of them is taken, for a shorter average would read jitter as motion.
    """
    smooth, full = _smoothed(rotation)
    angle = np.full(len(rotation), np.nan)
    whole = np.zeros(len(rotation), dtype=bool)
    if len(rotation) > 1:
        trace = np.einsum("fij,fij->f", smooth[1:], smooth[:-1])
        angle[1:] = np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1)))
        whole[1:] = full[1:] & full[:-1]
    for run in _runs(np.isfinite(rotation[:, 0, 0])):
        good = run[whole[run]]
        if not len(good):
            good = run[np.isfinite(angle[run])]
        if len(good):
            angle[run] = angle[good[np.abs(run[:, None] - good).argmin(axis=1)]]
        else:
            angle[run] = 0.0  # a face seen for a single frame shows no motion
    return (angle * fps / 25).astype(np.float32)


def _smoothed(rotation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Chordal mean over the largest symmetric window of up to `SMOOTHING` frames without NaN; and where it is full."""
    smooth, full = np.full_like(rotation, np.nan), np.zeros(len(rotation), dtype=bool)
    for run in _runs(np.isfinite(rotation[:, 0, 0])):
        total = np.concatenate([np.zeros((1, 3, 3)), np.cumsum(rotation[run], axis=0)])
        place = np.arange(len(run))
        radius = np.minimum(np.minimum(place, place[::-1]), SMOOTHING // 2)
        u, _, vt = np.linalg.svd(total[place + radius + 1] - total[place - radius])
        sign = np.ones((len(run), 3))
        sign[:, 2] = np.sign(np.linalg.det(u @ vt))
        smooth[run] = (u * sign[:, None]) @ vt
        full[run] = radius == SMOOTHING // 2
    return smooth, full


def _runs(mask: np.ndarray) -> list[np.ndarray]:
    """Indices of each unbroken stretch of True."""
    places = np.flatnonzero(mask)
    return [run for run in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1) if len(run)]


def mouth_opening(mouth: np.ndarray) -> np.ndarray:
    """(F, 4, 3) landmarks `MOUTH` -> float32 (F,): distance of the inner lips over the height of the face."""
    lips = np.linalg.norm(mouth[:, 0] - mouth[:, 1], axis=-1)
    return (lips / np.linalg.norm(mouth[:, 2] - mouth[:, 3], axis=-1)).astype(np.float32)
