"""How the head moves: Table 2's velocities, and Figure 7's region.

Legend: F frames, P rigid landmarks. Speeds are degrees per frame at 25 fps, boxes x0, y0, x1, y1 in 0-1 of the
picture; NaN where no face was found.
"""

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from emo_data.features.pose import fit_pose, rotation_speed
from emo_data.schema import FPS

SPEED_EDGES = np.linspace(0, 5, 101)
"""Of the histogram; what is faster counts to the last bin."""


class Motion(BaseModel):
    """One video's. travel: from the 5th to the 95th percentile of the nose bridge's way across and down the picture."""

    model_config = ConfigDict(extra="forbid")

    velocity_mean: float
    velocity_variance: float
    travel_across: float
    travel_down: float


class Velocities(BaseModel):
    """Table 2's rows, over videos."""

    model_config = ConfigDict(extra="forbid")

    velocity_mean: float
    velocity_variance: float
    vmv: float | None


def speeds(rigid: np.ndarray, width: int, height: int) -> np.ndarray:
    """Landmarks `RIGID` (F, P, 3) in pixels of one shot -> float32 (F,): rotation between frames, smoothed as in
    ingestion (EMO 4.1). NaN also where neither neighbour shows a face: ingestion takes such a frame for one at rest.
    """
    speed = rotation_speed(fit_pose(rigid, width, height).rotation, FPS)
    shown = np.pad(np.isfinite(speed), 1)
    return np.where(shown[:-2] | shown[2:], speed, np.float32(np.nan))


def motion_of(rigid: np.ndarray, speed: np.ndarray, width: int, height: int) -> Motion | None:
    """rigid (F, P, 3) in pixels. None where no frame has a speed (F,)."""
    known = speed[np.isfinite(speed)].astype(np.float64)
    if not len(known):
        return None
    centre = fit_pose(rigid, width, height).centre / (width, height)
    low, high = np.nanpercentile(centre, [5, 95], axis=0)
    across, down = (high - low).tolist()
    return Motion(
        velocity_mean=float(known.mean()),
        velocity_variance=float(known.var()),
        travel_across=across,
        travel_down=down,
    )


def velocities(means: Sequence[float], variances: Sequence[float]) -> Velocities:
    """EMO Table 2: the mean of the videos' mean velocities, the mean of the variances within them, the variance of the
    means (VMV; None for one video). means, variances: of the speeds in each video, at least one.

    Not in the paper: every video counts alike, and variances are over N.
    """
    return Velocities(
        velocity_mean=float(np.mean(means)),
        velocity_variance=float(np.mean(variances)),
        vmv=float(np.var(means)) if len(means) > 1 else None,
    )


def containment(boxes: np.ndarray, region: np.ndarray) -> float:
    """The share of the face's area that lies in the region (4,), mean over frames with a face (EMO Figure 7).

    Not in the paper: the measure. boxes (F, 4), at least one finite.
    """
    known = boxes[np.isfinite(boxes).all(axis=1)].astype(np.float64)
    inside = np.minimum(known[:, 2:], region[2:]) - np.maximum(known[:, :2], region[:2])
    return float((inside.clip(0).prod(axis=1) / (known[:, 2:] - known[:, :2]).prod(axis=1).clip(1e-12)).mean())


def histogram(speed: np.ndarray) -> np.ndarray:
    """int64 (100,): frames in each bin of `SPEED_EDGES`."""
    return np.histogram(speed[np.isfinite(speed)].clip(0, SPEED_EDGES[-1]), SPEED_EDGES)[0]
