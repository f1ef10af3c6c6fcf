import numpy as np
import pytest

from emo_data.features.pose import CANONICAL, fit_pose, mouth_opening, rotation_speed, to_angles
from emo_data.synthetic.motion import rotation_matrices

SIDE = 512


def seen_from(angles, centre=(256.0, 256.0), scale=200.0, noise=0.0):
    """Landmarks (F, N, 3) of the canonical face, turned, in pixels."""
    turned = np.einsum("fij,nj->fni", rotation_matrices(np.asarray(angles, dtype=float)), CANONICAL) * scale
    turned = turned - turned.mean(axis=1, keepdims=True) + (*centre, 0.0)
    return turned + np.random.default_rng(0).normal(0, noise, turned.shape)


def test_angles_and_their_signs():
    angles = [(0, 0, 0), (20, 0, 0), (0, 15, 0), (0, 0, 10), (-30, 10, -5)]
    pose = fit_pose(seen_from(angles), SIDE, SIDE)
    assert np.abs(to_angles(pose.rotation) - angles).max() < 1e-3
    assert pose.scale == pytest.approx(200.0)
    nose = seen_from(angles)[:, 6] - seen_from(angles).mean(axis=1)
    assert nose[1, 0] > nose[0, 0] + 5  # yaw: to the picture's right
    assert nose[2, 1] < nose[0, 1] - 5  # pitch: up


def test_a_tilted_head_is_clockwise():
    points = seen_from([(0, 0, 10)])[0]
    left_eye, right_eye = points[9 + 6], points[9 + 13 + 6]  # as seen; 33 and 263
    assert right_eye[0] > left_eye[0] and right_eye[1] > left_eye[1]


def test_speed_is_degrees_per_frame_of_25_fps():
    turn = np.zeros((40, 3))
    turn[:, 0] = np.arange(40) * 0.7
    rotation = fit_pose(seen_from(turn), SIDE, SIDE).rotation
    speed = rotation_speed(rotation, 25)
    assert speed.dtype == np.float32 and speed[0] == speed[1]
    assert speed == pytest.approx(0.7, abs=0.02)
    assert rotation_speed(rotation, 50) == pytest.approx(1.4, abs=0.04)


def test_jitter_is_not_motion():
    still = fit_pose(seen_from(np.zeros((200, 3)), noise=1.0), SIDE, SIDE).rotation
    raw = np.degrees(np.arccos((np.einsum("fij,fij->f", still[1:], still[:-1]) - 1) / 2))
    speed = rotation_speed(still, 25)
    assert speed.mean() < 0.3 * raw.mean()
    assert speed[:3].max() < raw.mean()  # also at the ends


def test_a_missing_face_is_not_a_number_and_shifts_nothing():
    turn = np.zeros((40, 3))
    turn[:, 0] = np.concatenate([np.arange(20) * 0.5, 9.5 + np.arange(20) * 1.5])
    points = seen_from(turn)
    points[18:22] = np.nan
    pose = fit_pose(points, SIDE, SIDE)
    speed = rotation_speed(pose.rotation, 25)
    assert np.isnan(speed[18:22]).all() and np.isnan(pose.centre[18:22]).all()
    assert np.isnan(to_angles(pose.rotation)[18:22]).all()
    assert speed[:18] == pytest.approx(0.5, abs=0.02) and speed[22:] == pytest.approx(1.5, abs=0.05)
    assert np.isnan(rotation_speed(pose.rotation[18:21], 25)).all()


def test_a_face_that_wanders_turns_less_than_it_seems():
    """A pinhole camera sees a head that moves to its right more from the left: the fit takes that out."""
    left = to_angles(fit_pose(seen_from([(0, 0, 0)], centre=(100.0, 256.0)), SIDE, SIDE).rotation)[0]
    right = to_angles(fit_pose(seen_from([(0, 0, 0)], centre=(412.0, 256.0)), SIDE, SIDE).rotation)[0]
    assert left[0] == pytest.approx(-right[0], abs=0.01) and 1 < abs(left[0]) < 10


def test_mouth_opening_is_a_share_of_the_face():
    mouth = np.array([[(0, 100, 0), (0, 110, 0), (0, 0, 0), (0, 200, 0)]], dtype=float)
    assert mouth_opening(mouth) == pytest.approx(0.05)
    assert np.isnan(mouth_opening(mouth * np.nan)).all()
