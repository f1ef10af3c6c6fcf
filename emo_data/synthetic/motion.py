"""How the head turns: from rest to rest, each turn as smooth as a reaching arm (minimum jerk).

Angles are degrees: yaw positive turns the head to the picture's right, pitch positive looks up, roll positive is
clockwise as seen. Axes of the picture: x right, y down, z away from the viewer.
"""

from collections.abc import Sequence

import numpy as np

LIMITS = np.array([18.0, 7.0, 7.0])
"""Largest yaw, pitch and roll of a pose, degrees."""
_REST_SHARE = 0.3


def rotation_matrices(angles: np.ndarray) -> np.ndarray:
    """(F, 3) yaw, pitch, roll in degrees to (F, 3, 3), roll after pitch after yaw, acting on columns x, y, z."""
    yaw, pitch, roll = np.radians(angles).T
    zero, one = np.zeros_like(yaw), np.ones_like(yaw)

    def stack(*rows: list[np.ndarray]) -> np.ndarray:
        return np.stack([np.stack(row, -1) for row in rows], -2)

    sin, cos = np.sin, np.cos
    about_y = stack([cos(yaw), zero, -sin(yaw)], [zero, one, zero], [sin(yaw), zero, cos(yaw)])
    about_x = stack([one, zero, zero], [zero, cos(pitch), sin(pitch)], [zero, -sin(pitch), cos(pitch)])
    about_z = stack([cos(roll), -sin(roll), zero], [sin(roll), cos(roll), zero], [zero, zero, one])
    return about_z @ about_x @ about_y


def head_motion(seed: int | Sequence[int], frames: int, speed: float) -> np.ndarray:
    """(F, 3) yaw, pitch, roll in degrees whose mean speed is about `speed` degrees per frame, rests included.

    A calm head takes small turns, a lively one large ones; every turn is followed by a rest. At speed 0 it keeps its
    first pose.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))  # the voice of `seed` draws its own
    reach = np.clip(0.35 + 0.75 * speed, 0.4, 1.0)
    pose = rng.uniform(-0.5, 0.5, 3) * LIMITS * reach
    if speed == 0:
        return np.repeat(pose[None], frames, axis=0)
    path = [pose] * int(rng.integers(2, 6))
    while len(path) < frames:
        target = rng.uniform(-1, 1, 3) * LIMITS * reach
        distance = np.linalg.norm(target - pose)
        if distance < 0.5 * LIMITS[0] * reach:  # a turn, not a twitch
            continue
        length = max(4, round(distance * (1 - _REST_SHARE) / speed))
        rest = max(3, round(length * _REST_SHARE / (1 - _REST_SHARE) * rng.uniform(0.5, 1.5)))
        phase = np.arange(1, length + 1) / length
        eased = phase**3 * (10 - 15 * phase + 6 * phase**2)
        path.extend(pose + (target - pose) * eased[:, None])
        path.extend([target] * rest)
        pose = target
    return np.array(path[:frames])
