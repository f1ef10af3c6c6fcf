"""One pass over a source's pictures: cuts, faces, pose and mouth, frame by frame.

Legend: F frames at the dataset's rate. All positions are pixels of the source picture; NaN where there is no face.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from emo_data.features.faces import FaceTracker, Sighting
from emo_data.features.pose import MOUTH, RIGID
from emo_data.ingest.split import CutDetector, steady_many
from emo_data.video import Decoder, VideoInfo, read_pictures

KEEP_BYTES = 300_000_000
"""A source whose pictures all fit into this is decoded once; a larger one again for each clip."""
_SHOWN_EVERY = 50


@dataclass(frozen=True)
class Scan:
    """What was seen. `pictures` is None where they are too many to keep."""

    picture: np.ndarray
    """bool (F,): there is a picture at this time."""
    shot: np.ndarray
    """int (F,): number of the shot; a gap begins another one."""
    box: np.ndarray
    """float32 (F, 4)."""
    rigid: np.ndarray
    """float32 (F, len(RIGID), 3)."""
    mouth: np.ndarray
    """float32 (F, 4, 3)."""
    counts: np.ndarray
    """int (F,): faces of a size to matter; held between looks of the detector."""
    many: np.ndarray
    """bool (F,): several of them."""
    tallest: np.ndarray
    """float (F,): height of the tallest face that the detector saw; held likewise."""
    pictures: list[np.ndarray | None] | None
    thumbnails: dict[int, np.ndarray]
    """A small picture now and then, by frame, to show what was rejected."""


def scan(
    info: VideoInfo,
    grid: np.ndarray,
    decoder: Decoder,
    rival_share: float,
    before: np.ndarray,
    forget: int | None,
    beat: Callable[[], None],
) -> Scan:
    """grid int (F,): which picture of the source each frame shows, see `VideoInfo.at_rate`.

    before: likewise, frames ahead of these from which only cuts are learned; forget: at this frame the face is looked
    for anew; beat: called at each frame.
    """
    frames = len(grid)
    keep = frames * info.width * info.height * 3 <= KEEP_BYTES
    pictures: list[np.ndarray | None] | None = [] if keep else None
    here, cut, looked = (np.zeros(frames, dtype=bool) for _ in range(3))
    box = np.full((frames, 4), np.nan, dtype=np.float32)
    rigid = np.full((frames, len(RIGID), 3), np.nan, dtype=np.float32)
    mouth = np.full((frames, len(MOUTH), 3), np.nan, dtype=np.float32)
    counts, tallest = np.zeros(frames, dtype=int), np.full(frames, np.nan)
    thumbnails: dict[int, np.ndarray] = {}
    cuts = CutDetector()
    with FaceTracker() as tracker:
        seen_pictures = read_pictures(info, np.concatenate([before, grid]), decoder)
        for frame, picture in enumerate(seen_pictures, start=-len(before)):
            beat()
            if frame < 0:
                if picture is None:
                    cuts.restart()
                else:
                    cuts.is_cut(picture)
                continue
            if pictures is not None:
                pictures.append(picture)
            if picture is None:
                cuts.restart()
                tracker.restart()
                continue
            here[frame] = True
            cut[frame] = cuts.is_cut(picture) or (frame > 0 and not here[frame - 1])
            if cut[frame] or frame == forget:
                tracker.restart()
            if frame % _SHOWN_EVERY == 0 or cut[frame]:
                thumbnails[frame] = thumbnail(picture)
            seen = tracker.track(picture)
            if seen.face is not None:
                box[frame], rigid[frame], mouth[frame] = (
                    seen.face.box,
                    seen.face.landmarks[RIGID],
                    seen.face.landmarks[MOUTH],
                )
            if seen.boxes is not None:
                looked[frame] = True
                counts[frame], tallest[frame] = _count(seen, rival_share)
    shot = np.cumsum(cut | (~here & np.concatenate([[False], here[:-1]])))
    many = steady_many(counts > 1, looked, shot)
    latest = np.maximum.accumulate(np.where(looked, np.arange(frames), 0))
    return Scan(here, shot, box, rigid, mouth, counts[latest], many, tallest[latest], pictures, thumbnails)


def thumbnail(picture: np.ndarray) -> np.ndarray:
    """RGB uint8 (H, W, 3), neither side over 160 pixels."""
    import cv2

    height, width = picture.shape[:2]
    share = 160 / max(height, width, 160)
    size = max(round(width * share), 1), max(round(height * share), 1)
    stride = max(1, int(0.5 / share))
    return cv2.resize(picture[::stride, ::stride], size, interpolation=cv2.INTER_AREA)


def _count(seen: Sighting, rival_share: float) -> tuple[int, float]:
    """Faces at least `rival_share` times as tall as the one that is followed (or as the tallest), and the tallest."""
    boxes = seen.boxes if seen.boxes is not None else np.zeros((0, 4))
    heights = boxes[:, 3] - boxes[:, 1]
    tallest = float(heights.max()) if len(heights) else float("nan")
    if seen.face is None:
        return int((heights >= rival_share * tallest).sum()), tallest
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    own = seen.face.box
    others = ~((x > own[0]) & (x < own[2]) & (y > own[1]) & (y < own[3]))
    return 1 + int((heights[others] >= rival_share * seen.face.height).sum()), tallest
