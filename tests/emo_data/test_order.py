"""Which clip every sample comes from: each as often as it is long, the same however the work is shared."""

from collections import Counter

import numpy as np
import pytest

from emo_data.dataset.order import Order


def order(lengths, lanes=4, windows=3, seed=(0, 1)):
    return Order.over(np.array(lengths), 12, 4, lanes=lanes, windows=windows, seed=seed)


def seen(one: Order, lanes: range, steps: range) -> dict[tuple[int, int], int]:
    """(step, lane) -> clip."""
    return {(step, read.lane): read.clip for read in one.reads(lanes, steps) for step in read.steps}


def test_every_epoch_reads_every_clip_as_often_as_it_is_long():
    """65 frames are 50 windows: read once; 165 frames are three times as many; 15 frames are too few for one."""
    one = order([65, 165, 15, 20], lanes=5, windows=1)
    clips = list(seen(one, range(5), range(12)).values())  # an epoch is five reads
    for epoch in range(12):
        assert Counter(clips[5 * epoch : 5 * epoch + 5]) == {0: 1, 1: 3, 3: 1}
    assert len({tuple(clips[5 * epoch : 5 * epoch + 5]) for epoch in range(12)}) > 1


def test_who_does_a_lane_and_where_a_run_begins_make_no_difference():
    whole = seen(order([70] * 9), range(4), range(40))
    assert whole.keys() == {(step, lane) for step in range(40) for lane in range(4)}
    for lanes, steps in ((range(1, 3), range(40)), (range(4), range(7, 40)), (range(3, 4), range(20, 21))):
        part = seen(order([70] * 9), lanes, steps)
        assert part == {place: clip for place, clip in whole.items() if place[0] in steps and place[1] in lanes}
    assert seen(order([70] * 9, seed=(1, 1)), range(4), range(40)) != whole


def test_readings_come_in_the_order_in_which_they_are_needed_and_lanes_take_turns():
    reads = list(order([70] * 9).reads(range(4), range(12)))
    firsts = [(read.steps[0], read.lane) for read in reads]
    assert firsts == sorted(firsts)
    assert all(sum(step == begun for begun, _ in firsts) < 3 for step in range(1, 12))


def test_no_clip_is_long_enough():
    with pytest.raises(ValueError, match="no clip has 16 frames"):
        order([15, 3])
