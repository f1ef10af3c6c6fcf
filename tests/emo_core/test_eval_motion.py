"""Table 2's numbers and Figure 7's, by hand."""

import numpy as np
import pytest

from emo_core.evaluation.motion import containment, histogram, motion_of, speeds, velocities
from emo_data.dataset.window import region_of
from emo_data.features.pose import CANONICAL, RIGID
from emo_data.synthetic.motion import rotation_matrices


def head(angles, places):
    """Landmarks (F, 478, 3) of a rigid head of 100 pixels: turned by angles (F, 3), nose bridge at places (F, 2)."""
    turned = 100 * np.einsum("fij,nj->fni", rotation_matrices(np.asarray(angles, float)), CANONICAL)
    marks = np.zeros((len(turned), 478, 3), np.float32)
    marks[:, RIGID] = turned
    marks[..., :2] += np.asarray(places)[:, None]
    return marks


def test_table_2():
    found = velocities([1.0, 2.0, 3.0], [0.2, 0.4, 0.9])
    assert (found.velocity_mean, found.velocity_variance) == (2.0, 0.5)
    assert found.vmv == pytest.approx(2 / 3)
    assert velocities([1.0], [0.2]).vmv is None


def test_a_head_that_turns_steadily():
    yaw = np.zeros((60, 3))
    yaw[:, 0] = 0.7 * np.arange(60)
    marks = head(yaw, np.full((60, 2), 200.0))
    marks[50:53] = np.nan
    speed = speeds(marks[:, RIGID], 400, 400)
    assert np.isnan(speed[50:53]).all() and np.isfinite(speed).sum() == 57
    found = motion_of(marks[:, RIGID], speed, 400, 400)
    assert found.velocity_mean == pytest.approx(0.7, abs=0.02) and found.velocity_variance < 1e-3
    assert histogram(speed)[13:15].sum() == 57  # 0.65 to 0.75


def test_a_head_that_wanders():
    places = np.stack([np.linspace(100, 300, 101), np.full(101, 200.0)], axis=1)
    marks = head(np.zeros((101, 3)), places)
    found = motion_of(marks[:, RIGID], speeds(marks[:, RIGID], 400, 500), 400, 500)
    assert found.travel_across == pytest.approx(0.9 * 200 / 400, abs=0.01)
    assert found.travel_down == pytest.approx(0, abs=0.01)


def test_how_much_of_the_face_is_in_the_region():
    boxes = np.array([[0.2, 0.2, 0.4, 0.4], [np.nan] * 4, [0.3, 0.2, 0.5, 0.4], [0.6, 0.6, 0.8, 0.8]])
    assert containment(boxes, np.array([0.2, 0.2, 0.4, 0.4])) == pytest.approx((1 + 0.5 + 0) / 3)
    assert containment(boxes, region_of(boxes)) == 1
    assert region_of(boxes) == pytest.approx([0.2, 0.2, 0.8, 0.8])


def test_a_face_seen_for_single_frames_has_no_speed():
    marks = head(np.zeros((9, 3)), np.full((9, 2), 200.0))
    marks[[1, 3, 6]] = np.nan
    rigid = marks[:, RIGID]
    speed = speeds(rigid, 400, 400)
    assert np.isfinite(speed).tolist() == [False, False, False, False, True, True, False, True, True]
    marks[[4, 7]] = np.nan
    speed = speeds(marks[:, RIGID], 400, 400)
    assert np.isnan(speed).all() and motion_of(marks[:, RIGID], speed, 400, 400) is None
