"""Which frames a sample shows: every possible window, edges clamped, masks of the sampled clip only."""

import numpy as np
import pytest

from emo_data.dataset.sample import Clip, make_sample
from emo_data.dataset.window import Window, draw_window, mouth_masks, region_mask, surroundings


def test_every_possible_window_is_drawn_and_no_other():
    """Three generated frames after two motion frames, from clips of 5, 4 and 7 frames: four windows in all."""
    rng = np.random.default_rng(0)
    windows = [draw_window(rng, np.array([5, 4, 7]), frames=3, before=2) for _ in range(400)]
    counts = {place: 0 for place in [(0, 2), (2, 2), (2, 3), (2, 4)]}
    for window in windows:
        counts[window.clip, window.start] += 1
        assert 0 <= window.reference < [5, 4, 7][window.clip]
    assert min(counts.values()) > 70  # 100 each on average
    assert {window.reference for window in windows if window.clip == 2} == set(range(7))


def test_no_clip_is_long_enough():
    """Said, not looped over for ever."""
    with pytest.raises(ValueError, match="no clip has 5 frames"):
        draw_window(np.random.default_rng(0), np.array([4, 3]), frames=3, before=2)


def test_surroundings_are_neighbours_with_clamped_edges():
    """A(f-m) ... A(f+m); before the first frame the first is repeated, after the last the last."""
    values = np.arange(5)[:, None] * np.ones(3)
    around = surroundings(values, start=0, frames=5, margin=2)
    assert around.shape == (5, 5, 3)
    assert around[..., 0].tolist() == [
        [0, 0, 0, 1, 2],
        [0, 0, 1, 2, 3],
        [0, 1, 2, 3, 4],
        [1, 2, 3, 4, 4],
        [2, 3, 4, 4, 4],
    ]


def test_region_is_the_union_of_the_boxes():
    """Frames without a face do not count; growing adds a share of the union's own size."""
    boxes = np.array([[0.25, 0.25, 0.5, 0.5], [0.5, 0.25, 0.75, 0.75], [np.nan] * 4], np.float32)
    mask = region_mask(boxes, 8)
    expected = np.zeros((1, 8, 8))
    expected[:, 2:6, 2:6] = 1
    assert np.array_equal(mask, expected)
    assert region_mask(boxes, 8, (1.0, 0.0)).sum() == 4 * 8
    assert region_mask(boxes[2:], 8).all()


def test_mouth_is_in_the_lower_half_of_each_frames_own_box():
    """One mask per frame, none where no face was found."""
    boxes = np.array([[0.25, 0.0, 0.75, 1.0], [np.nan] * 4], np.float32)
    masks = mouth_masks(boxes, 4)
    assert masks[0, 0].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0]]
    assert not masks[1].any()


def test_sample_sees_its_own_window_only():
    """The mask is the union over the sampled frames, not over the clip; a missing speed is the clip's mean."""
    box = np.tile(np.float32([0.0, 0.0, 0.25, 0.25]), (10, 1))
    box[5:] = [0.75, 0.75, 1.0, 1.0]
    speed = np.full(10, 0.4, np.float32)
    speed[6] = np.nan
    clip = Clip("c", box, speed, np.arange(10, dtype=np.float16).reshape(10, 1, 1))
    sample = make_sample(clip, Window(0, 6, 0), frames=3, margin=1, size=4, grow=(0.0, 0.0))
    assert sample.mask.sum() == 1
    assert sample.mask[0, 3, 3] == 1
    assert sample.audio is not None
    assert sample.audio[:, :, 0, 0].tolist() == [[5, 6, 7], [6, 7, 8], [7, 8, 9]]
    assert sample.speed[0] == pytest.approx([0.4, 0.4, 0.4])
