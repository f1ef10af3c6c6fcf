import numpy as np
import pytest

from emo_data.features.framing import Square, boxes_in_square, crop, frame_face


def test_the_face_is_half_as_high_as_the_crop():
    square = frame_face(np.array([900.0, 400.0, 1080.0, 640.0]), 1920, 1080)
    assert square == Square(990 - 240, 520 - 240, 480)


def test_one_square_holds_every_place_of_the_face_and_follows_no_outlier():
    rng = np.random.default_rng(0)
    x = 800 + 200 * np.sin(np.linspace(0, 6, 200))
    boxes = np.stack([x, x * 0 + 300, x + 200, x * 0 + 540], axis=1)
    square = frame_face(boxes + rng.normal(0, 1, boxes.shape), 1920, 1080)
    inside = boxes_in_square(boxes, square)
    assert inside.min() > 0 and inside.max() < 1
    boxes[50:53] = [0, 0, 1900, 1070]  # the detector's slip
    boxes[70:80] = np.nan
    assert abs(frame_face(boxes, 1920, 1080).side - square.side) < 30


def test_it_stays_inside_the_picture_where_it_can():
    assert frame_face(np.array([0.0, 0.0, 100.0, 120.0]), 640, 480) == Square(0, 0, 240)
    assert frame_face(np.array([500.0, 350.0, 640.0, 480.0]), 640, 480) == Square(640 - 260, 480 - 260, 260)
    tight = frame_face(np.array([100.0, 60.0, 400.0, 440.0]), 512, 512)
    assert tight == Square(0, 0, 512)
    wide = frame_face(np.array([330.0, 40.0, 630.0, 440.0]), 960, 480)
    assert (wide.y, wide.side) == (0, 480)


def test_only_a_face_at_the_very_edge_reaches_over_it():
    square = frame_face(np.array([0.0, 0.0, 300.0, 300.0]), 300, 300)
    assert square.side == pytest.approx(330, abs=1) and square.x < 0
    picture = np.full((300, 300, 3), 90, np.uint8)
    assert (crop(picture, square, 128) == 90).all()  # the edge's own colour, no black frame


def test_the_crop_shows_what_the_boxes_say():
    picture = np.zeros((400, 600, 3), np.uint8)
    picture[100:200, 300:420] = 255
    for square in (Square(200, 50, 300), Square(-50, -20, 500), Square(250, 90, 200)):
        box = boxes_in_square(np.array([300, 100, 420, 200]), square) * 256
        bright = np.argwhere(crop(picture, square, 256)[..., 0] > 127)
        assert np.abs(bright.min(axis=0)[::-1] - box[:2]).max() <= 1.5
        assert np.abs(bright.max(axis=0)[::-1] + 1 - box[2:]).max() <= 1.5


def test_no_face_at_all_is_a_fault_of_the_caller():
    with pytest.raises(ValueError):
        frame_face(np.full((5, 4), np.nan), 100, 100)
