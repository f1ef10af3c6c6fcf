from itertools import pairwise

import numpy as np
import pytest

from emo_data.ingest.accept import Thresholds, judge_clip, judge_stretch, sound_state
from emo_data.ingest.split import (
    CutDetector,
    Span,
    State,
    Stretch,
    cut_into_clips,
    frame_states,
    own_part,
    steady_many,
    stretches,
)
from emo_data.schema import Reason, SoundState

THRESHOLDS = Thresholds()


def scene(seed):
    rng = np.random.default_rng(seed)
    return np.kron(rng.integers(0, 255, (6, 8, 3)), np.ones((20, 20, 1))).astype(np.uint8)


def test_cuts_are_found_and_motion_noise_and_light_are_not():
    rng = np.random.default_rng(0)
    pictures = [scene(0)] * 10
    pictures += [np.roll(scene(1), 9 * n, axis=1) for n in range(10)] + [
        np.roll(scene(1), 81, axis=1)
    ] * 10  # a fast pan
    pictures += [np.clip(scene(2).astype(int) + rng.normal(0, 12, (120, 160, 3)), 0, 255).astype(np.uint8)] * 10
    pictures += [np.clip(scene(2) * (1 - n / 20), 0, 255).astype(np.uint8) for n in range(20)]  # fading out
    detector = CutDetector()
    assert [n for n, picture in enumerate(pictures) if detector.is_cut(picture)] == [10, 30]


def test_a_restart_knows_no_picture_before():
    detector = CutDetector()
    detector.is_cut(scene(1))
    detector.restart()
    assert not detector.is_cut(scene(2))
    assert detector.is_cut(scene(3))


def test_stretches_are_all_frames_bridging_short_losses_inside_a_shot_only():
    face = np.array([1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1], dtype=bool)
    picture = np.ones(14, dtype=bool)
    picture[13] = False
    many = np.zeros(14, dtype=bool)
    many[10] = True
    shot = np.array([0] * 5 + [1] * 9)
    states = frame_states(picture, face, many, shot, bridge=2)
    found = stretches(states, shot)
    assert [(part.start, part.stop, part.state) for part in found] == [
        (0, 5, State.ONE),
        (5, 6, State.ONE),
        (6, 10, State.NONE),
        (10, 11, State.MANY),
        (11, 13, State.ONE),
        (13, 14, State.GAP),
    ]
    shot[:] = np.array([0] * 3 + [1] * 11)  # the cut is inside the loss: two people, not one
    assert frame_states(picture, face, many, shot, bridge=2)[2] is State.NONE


def test_one_look_that_disagrees_is_the_detectors_error():
    looked = np.arange(50) % 5 == 0
    many = np.zeros(50, dtype=bool)
    many[20] = True
    shot = np.zeros(50, dtype=int)
    assert not steady_many(many, looked, shot).any()
    many[25] = True
    steady = np.flatnonzero(steady_many(many, looked, shot))
    assert 17 <= steady.min() <= 18 and 27 <= steady.max() <= 28


@pytest.mark.parametrize("frames", [50, 51, 99, 100, 250, 251, 262, 500, 501, 1234])
def test_long_stretches_lose_nothing(frames):
    clips = cut_into_clips(7, 7 + frames, shortest=50, longest=250)
    assert clips[0][0] == 7 and clips[-1][1] == 7 + frames
    assert all(50 <= stop - start <= 250 for start, stop in clips)
    assert all(before[1] == after[0] for before, after in pairwise(clips))


def test_parts_that_would_be_too_short_are_full_ones_and_a_rest():
    assert cut_into_clips(0, 110, shortest=80, longest=100) == [(0, 100)]
    assert cut_into_clips(0, 80, shortest=80, longest=100) == [(0, 80)]


def test_reasons_carry_what_was_measured():
    counts, heights = np.full(100, 2), np.full(100, 30.0)

    def judged(state, stop=100, heights=heights):
        return judge_stretch(Stretch(0, stop, state), counts, heights, 25, 2.0, THRESHOLDS)

    assert judged(State.ONE) is None and judged(State.ONE, 50) is None
    short = judged(State.ONE, 49)
    assert (short.reason, short.measured, short.threshold) == (Reason.TOO_SHORT, 1.96, 2.0)
    assert (judged(State.MANY).reason, judged(State.MANY).measured) == (Reason.MANY_FACES, 2)
    assert (judged(State.NONE).reason, judged(State.NONE).measured) == (Reason.FACE_TOO_SMALL, 30.0)
    assert judged(State.NONE, heights=np.full(100, np.nan)).reason is Reason.NO_FACE
    assert judged(State.GAP).reason is Reason.UNREADABLE
    assert judge_clip(1.0, 200, THRESHOLDS) is None
    assert judge_clip(0.5, 200, THRESHOLDS).reason is Reason.NO_FACE
    assert judge_clip(1.0, 20, THRESHOLDS).reason is Reason.FACE_TOO_SMALL


def test_sound_is_marked():
    moves, rests = np.array([0.0, 0.1] * 5), np.full(10, 0.02)
    assert sound_state(False, float("-inf"), 0.0, moves, THRESHOLDS) is SoundState.ABSENT
    assert sound_state(True, -20, 0.9, rests, THRESHOLDS) is SoundState.FOREIGN
    assert sound_state(True, -20, 0.1, rests, THRESHOLDS) is SoundState.VOICE  # nobody says much
    assert sound_state(True, -80.0, 0.0, moves, THRESHOLDS) is SoundState.SILENT
    assert sound_state(True, -20.0, 0.9, moves, THRESHOLDS) is SoundState.VOICE


@pytest.mark.parametrize("start,stop", [(10, 200), (60, 140), (90, 103), (97, 110), (97, 200), (10, 103), (100, 130)])
def test_a_border_between_chunks_costs_no_clip(start, stop):
    """Whatever lies on the border goes to one of its sides whole, or is parted into two that are long enough."""
    unit, border, shortest = Span(0, 300), 100, 10
    whole = Stretch(start, stop, State.ONE)
    parts = [own_part(whole, own, unit, shortest) for own in (Span(0, border), Span(border, 300))]
    parts = [part for part in parts if part]
    assert [frame for part in parts for frame in range(part.start, part.stop)] == list(range(start, stop))
    assert len(parts) == 1 or all(part.stop - part.start >= shortest for part in parts)
    gap = [own_part(Stretch(start, stop, State.GAP), own, unit, shortest) for own in (Span(0, 100), Span(100, 300))]
    assert sum(part.stop - part.start for part in gap if part) == stop - start


def test_a_part_of_a_source_has_no_neighbours():
    """Its own ends are ends: what lies beyond belongs to nobody."""
    whole = Stretch(0, 400, State.ONE)
    assert own_part(whole, Span(0, 400), Span(0, 400), 10) == whole
