"""Which frames a sample shows: every possible window, edges clamped, masks of the sampled clip only."""

import numpy as np

from emo_data.dataset.window import Window, draw_window, mouth_mask, region_mask, region_of, surroundings


def test_every_possible_window_is_drawn_and_no_other():
    """Three generated frames after two motion frames, of seven: three windows, and any other frame is the reference."""
    rng = np.random.default_rng(0)
    windows = [draw_window(rng, 7, frames=3, before=2) for _ in range(600)]
    starts = [window.start for window in windows]
    assert set(starts) == {2, 3, 4} and min(starts.count(start) for start in (2, 3, 4)) > 150
    assert {window.reference for window in windows if window.start == 3} == {0, 1, 2, 4, 5, 6}
    assert draw_window(rng, 1, frames=1, before=0) == Window(0, 0)


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
    region = region_of(boxes)
    mask = region_mask(region, 8)
    expected = np.zeros((1, 8, 8))
    expected[:, 2:6, 2:6] = 1
    assert np.array_equal(mask, expected)
    assert region_mask(region, 8, np.array([1.0, 0.0])).sum() == 4 * 8
    nowhere = region_of(boxes[2:])
    assert region_mask(nowhere, 8).all()
    several = region_mask(np.stack([region, nowhere]), 8, np.array([[1.0, 0.0], [0.5, 0.5]]))
    assert several.shape == (2, 1, 8, 8) and several[0].sum() == 4 * 8 and several[1].all()


def test_mouth_is_in_the_lower_half_of_each_frames_own_box():
    """One mask per frame, none where no face was found."""
    boxes = np.array([[0.25, 0.0, 0.75, 1.0], [np.nan] * 4], np.float32)
    masks = mouth_mask(boxes, 4)
    assert masks[0, 0].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0]]
    assert not masks[1].any()
