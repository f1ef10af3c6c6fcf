"""Where a source is cut: shots, stretches with one face, clips.

Legend: F frames at the dataset's rate. Stretches and clips are [start, stop) in frames.
"""

from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import NamedTuple

import numpy as np

_CUT_DIFFERENCE = 22.0
"""Mean absolute difference (0-255) of two thumbnails from which a change can be a cut; lively singing reaches 18."""
_CUT_RATIO = 4.0
"""And how many times the recent changes it must be, so that a fast pan or a flickering light is none."""
_RECENT = 12
_THUMBNAIL = 24


class State(Enum):
    """What a frame shows."""

    GAP = "gap"
    """No picture at this time, or a corrupt one."""
    NONE = "none"
    ONE = "one"
    MANY = "many"


class Span(NamedTuple):
    """Frames start to stop, stop not among them."""

    start: int
    stop: int


@dataclass(frozen=True)
class Stretch:
    """Frames of one shot that show the same."""

    start: int
    stop: int
    state: State


class CutDetector:
    """Finds hard cuts picture by picture: a sudden, unusual change of a thumbnail."""

    def __init__(self) -> None:
        self._last: np.ndarray | None = None
        self._recent: list[float] = []

    def restart(self) -> None:
        """The next picture has none before it."""
        self._last, self._recent = None, []

    def is_cut(self, picture: np.ndarray) -> bool:
        """Whether a new shot begins with this picture, RGB uint8 (H, W, 3)."""
        import cv2

        stride = max(1, min(picture.shape[:2]) // (4 * _THUMBNAIL))
        small = cv2.resize(picture[::stride, ::stride], (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)
        last, self._last = self._last, small.astype(np.float32)
        if last is None:
            return False
        change = float(np.abs(self._last - last).mean())
        usual = max(float(np.median(self._recent)), self._recent[-1]) if self._recent else 0.0
        self._recent = [*self._recent[1 - _RECENT :], change]
        return change > _CUT_DIFFERENCE and change > _CUT_RATIO * usual


def frame_states(picture: np.ndarray, face: np.ndarray, many: np.ndarray, shot: np.ndarray, bridge: int) -> list[State]:
    """State of each frame. All bool (F,) but shot, int (F,): there is a picture, a face; several faces; shot number.

    A face that is lost for up to `bridge` frames between two frames of its shot that show it is still there.
    """
    face = face.copy()
    seen = np.flatnonzero(face)
    for before, after in pairwise(seen):
        if 1 < after - before <= bridge + 1 and shot[before] == shot[after]:
            face[before:after] = True
    return [
        State.GAP if not here else State.MANY if several else State.ONE if found else State.NONE
        for here, several, found in zip(picture, many, face, strict=True)
    ]


def stretches(states: list[State], shot: np.ndarray) -> list[Stretch]:
    """Runs of one state inside one shot, in order; together they are all frames."""
    starts = [0]
    for frame in range(1, len(states)):
        if states[frame] is not states[frame - 1] or shot[frame] != shot[frame - 1]:
            starts.append(frame)
    stops = [*starts[1:], len(states)]
    return [Stretch(start, stop, states[start]) for start, stop in zip(starts, stops, strict=True)]


def steady_many(many: np.ndarray, looked: np.ndarray, shot: np.ndarray) -> np.ndarray:
    """bool (F,): several faces, held from each look of the detector to the next.

    many: what the detector's looks said, looked: in which frames it looked. One look that disagrees with both its
    neighbours in the shot is taken for an error of the detector.
    """
    steady = np.zeros(len(many), dtype=bool)
    for number in np.unique(shot[looked]):
        looks = np.flatnonzero(looked & (shot == number))
        said = many[looks].astype(int)
        if len(said) > 2:
            padded = np.concatenate([said[:1], said, said[-1:]])
            said = np.median(np.stack([padded[:-2], padded[1:-1], padded[2:]]), axis=0).astype(int)
        frames = np.flatnonzero(shot == number)
        halfway = (looks[:-1] + looks[1:]) / 2
        steady[frames] = said[np.searchsorted(halfway, frames)] > 0
    return steady


def cut_into_clips(start: int, stop: int, shortest: int, longest: int) -> list[tuple[int, int]]:
    """Equal parts of at most `longest` frames; where equal parts would be too short, full ones and a lost rest."""
    frames = stop - start
    parts = -(-frames // longest)
    if frames // parts < shortest:
        parts = max(1, frames // longest)
        frames = min(frames, parts * longest)
    edges = [start + frames * part // parts for part in range(parts + 1)]
    return list(pairwise(edges))


def own_part(stretch: Stretch, own: Span, unit: Span, shortest: int) -> Stretch | None:
    """What a chunk has of a stretch; None for nothing. own, unit: the chunk's frames, and all of the unit it is of.

    At a border between chunks a face's stretch is parted; where that leaves too little on one side, the other side has
    that, too, so that no clip is lost to a border. Both neighbours come to the same answer.
    """
    begin, end = stretch.start, stretch.stop
    if own.start > unit.start:
        begin = max(begin, _parted(stretch, own.start, shortest))
    if own.stop < unit.stop:
        end = min(end, _parted(stretch, own.stop, shortest))
    return Stretch(begin, end, stretch.state) if begin < end else None


def _parted(stretch: Stretch, border: int, shortest: int) -> int:
    """Where a stretch is parted because of a border: frames before it are the earlier chunk's."""
    if stretch.state is not State.ONE or not stretch.start < border < stretch.stop:
        return border
    if stretch.stop - border < shortest:
        return stretch.stop
    return stretch.start if border - stretch.start < shortest else border
