"""One video, decoded once: everything the metrics need of it, in the memory of a few frames and its features.

Legend: F frames at 25 fps, N rows, D width, H W pixels.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emo_core.evaluation.block import CONTEXT, FRAMES, Block, SyncScore
from emo_core.evaluation.extractors import FACELESS, Extractors
from emo_core.evaluation.motion import Motion, motion_of, speeds
from emo_data.container import Unreadable
from emo_data.features.faces import FaceTracker, find_faces
from emo_data.features.pose import RIGID
from emo_data.schema import FPS, SAMPLE_RATE
from emo_data.sound import sound_between
from emo_data.video import Decoder, DecoderFailed, NoVideo, TooLarge, VideoInfo, decoders, probe, read_pictures

LANDMARKS = 478
LEAST_FACES = 0.5
"""Not in the paper: a video that shows a face in fewer of its frames is not judged by the face."""

_KEPT_SECONDS = 30


@dataclass(frozen=True)
class Job:
    """A file to look at. portrait: it is a picture. sound: to be heard where the video has none itself."""

    path: str
    portrait: bool = False
    sound: str | None = None


@dataclass(frozen=True)
class Seen:
    """What a video gave. features: metric -> (N, D). faces: frames with one; missing: frames that could not be decoded.
    speed (F,) and boxes (F, 4) in 0-1: NaN without a face. motion: None where no head can be seen to move. sound:
    float32 (S,) at 16 kHz, of the first half minute; None where there is none. sync_reason: why sync could not be
    judged."""

    frames: int
    width: int
    height: int
    faces: int
    missing: int
    features: dict[str, np.ndarray]
    boxes: np.ndarray
    speed: np.ndarray
    motion: Motion | None
    sound: np.ndarray | None
    sync: SyncScore | None
    sync_reason: str

    @property
    def face_share(self) -> float:
        """Of frames with a face."""
        return self.faces / self.frames


@dataclass(frozen=True)
class Unseen:
    """Why nothing can be said of a file."""

    problem: str


def look(job: Job, extractors: Extractors) -> Seen | Unseen:
    """Measure a file. What is wrong with it becomes Unseen; any exception but bad weights is a fault of ours."""
    path = Path(job.path)
    if not path.is_file():
        return Unseen(f"{path}: there is no such file")
    if job.portrait:
        return _portrait(path, extractors)
    try:
        info = probe(path)
        *preferred, last = decoders(info)
        for decoder in preferred:
            try:
                return _watched(info, decoder, job, extractors)
            except DecoderFailed:
                continue  # the last one reads what can be read
        return _watched(info, last, job, extractors)
    except (Unreadable, NoVideo, TooLarge, DecoderFailed) as error:
        return Unseen(f"{path}: cannot be read: {error}")


def _watched(info: VideoInfo, decoder: Decoder, job: Job, extractors: Extractors) -> Seen | Unseen:
    grid = info.at_rate(FPS)
    found: dict[str, list[np.ndarray]] = {metric: [] for metric in extractors.of_pictures}
    lips, points, boxed, there = list[np.ndarray](), list[np.ndarray](), list[np.ndarray](), list[np.ndarray]()
    for block in blocks_of(info, grid, decoder, extractors.tracks_faces):
        marks = block.landmarks[block.before :]
        points.append(marks[:, RIGID])  # an hour of all landmarks would be half a gigabyte
        boxed.append(np.concatenate([marks[..., :2].min(axis=1), marks[..., :2].max(axis=1)], axis=1))
        there.append(block.there[block.before :])
        for metric, extractor in extractors.of_pictures.items():
            if metric in FACELESS or len(block.faces):
                found[metric].append(extractor.features(block))
        if extractors.sync is not None:
            lips.append(extractors.sync.features(block))
    rigid, decoded = np.concatenate(points), np.concatenate(there)
    if not decoded.any():
        return Unseen(f"{info.path}: none of its pictures can be decoded")
    speed = speeds(rigid, info.width, info.height)
    sync = None
    sound, reason = _sound(info, job, len(grid))
    if extractors.sync is not None:
        sync, reason = _judged(extractors, np.concatenate(lips), sound, reason)
    return Seen(
        frames=len(grid),
        width=info.width,
        height=info.height,
        faces=int(np.isfinite(rigid[:, 0, 0]).sum()),
        missing=int((~decoded).sum()),
        features={metric: np.concatenate(rows) for metric, rows in found.items() if rows},
        boxes=np.concatenate(boxed) / np.array([info.width, info.height] * 2, np.float32),
        speed=speed,
        motion=motion_of(rigid, speed, info.width, info.height),
        sound=None if sound is None else sound[: _KEPT_SECONDS * SAMPLE_RATE],
        sync=sync,
        sync_reason=reason,
    )


def blocks_of(info: VideoInfo, grid: np.ndarray, decoder: Decoder, tracks_faces: bool) -> Iterator[Block]:
    """The whole video, 16 frames at a time."""
    last: Block | None = None
    with ExitStack() as stack:
        tracker = stack.enter_context(FaceTracker()) if tracks_faces else None
        pictures = read_pictures(info, grid, decoder)
        for start in range(0, len(grid), FRAMES):
            before = 0 if last is None else CONTEXT
            length = before + min(FRAMES, len(grid) - start)
            shown = np.empty((length, info.height, info.width, 3), np.uint8)
            marks, there = np.full((length, LANDMARKS, 3), np.nan, np.float32), np.zeros(length, bool)
            if last is not None:  # a whole block, for only the last may be shorter
                shown[:before], marks[:before] = last.pictures[-before:], last.landmarks[-before:]
                there[:before] = last.there[-before:]
            for at in range(before, length):
                picture = next(pictures)
                there[at] = picture is not None
                shown[at] = 0 if picture is None else picture
                face = tracker.track(picture).face if tracker and picture is not None else None
                if face is not None:
                    marks[at] = face.landmarks
            last = Block(shown, marks, there, before)
            yield last


def _sound(info: VideoInfo, job: Job, frames: int) -> tuple[np.ndarray | None, str]:
    """float32 (S,) of the video, else of the sound that it was made for; where there is none, why."""
    if not info.has_sound and job.sound is None:
        return None, "it has no sound"
    try:
        if info.has_sound:
            return sound_between(info.path, float(info.times[0]), frames / FPS), ""
        return sound_between(Path(str(job.sound)), None, frames / FPS), ""
    except Unreadable as error:
        return None, f"{info.path if info.has_sound else job.sound}: {error}"


def _judged(
    extractors: Extractors, lips: np.ndarray, sound: np.ndarray | None, reason: str
) -> tuple[SyncScore | None, str]:
    assert extractors.sync is not None
    if sound is None:
        return None, reason
    try:
        return extractors.sync.judge(lips, sound), ""
    except ValueError as error:
        return None, str(error)


def _portrait(path: Path, extractors: Extractors) -> Seen | Unseen:
    """A picture as a video of one frame: what F-SIM needs of it."""
    from emo_core.inference.preprocess import NoPicture, read_picture  # which brings diffusers along

    try:
        picture = read_picture(path)
    except NoPicture as error:
        return Unseen(str(error))
    faces = find_faces(picture)
    if not faces:
        return Unseen(f"{path}: shows no face")
    height, width = picture.shape[:2]
    block = Block(picture[None], faces[0].landmarks[None], np.ones(1, bool), 0)
    features = {"fsim": extractors.of_pictures["fsim"].features(block)}
    return Seen(
        frames=1,
        width=width,
        height=height,
        faces=1,
        missing=0,
        features=features,
        boxes=(faces[0].box / (width, height, width, height)).astype(np.float32)[None],
        speed=np.zeros(1, np.float32),
        motion=None,
        sound=None,
        sync=None,
        sync_reason="it is a picture",
    )
