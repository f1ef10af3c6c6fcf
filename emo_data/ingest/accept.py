"""What becomes a clip: thresholds, and the judgement with reason, measured number and threshold.

Not in the paper: it names no thresholds. These suit EMO: wide poses, singing and a moving camera are welcome, so
nothing here looks at pose; sharpness, brightness, yaw range and mouth-sound correlation are columns to filter by.
"""

from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from emo_data.ingest.split import State, Stretch
from emo_data.schema import Reason, SoundState
from emo_data.video import VideoInfo


class Thresholds(BaseModel):
    """What a source, a stretch or a clip must reach."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_rate: float = Field(20.0, gt=0)
    """Pictures per second; below, motion at 25 fps would be made of repeated pictures."""
    min_picture: int = Field(96, ge=1)
    """Pixels of the shorter side."""
    min_face: float = Field(64.0, gt=0)
    """Median height of the face in source pixels."""
    min_detection_rate: float = Field(0.8, ge=0, le=1)
    """Share of a clip's frames in which the face is found."""
    rival_share: float = Field(0.35, gt=0)
    """A second face counts from this share of the first one's height on; people far behind do not."""
    silent_below: float = -60.0
    """dBFS; a clip's sound below it is marked silent."""
    min_sync_confidence: float = 3.0
    """Of a judge in the manner of SyncNet, where one is given."""
    max_sync_offset: float = Field(0.24, ge=0)
    """Seconds, likewise."""
    still_mouth: float = Field(0.004, ge=0)
    """Face heights. Where the opening of the mouth varies less (standard deviation) while something is heard for at
    least half of the time, the voice is marked as somebody else's."""


@dataclass(frozen=True)
class Verdict:
    """Why not. `detail` is one sentence for a person."""

    reason: Reason
    detail: str
    measured: float | None = None
    threshold: float | None = None


def judge_source(info: VideoInfo, min_seconds: float, thresholds: Thresholds) -> Verdict | None:
    """None where the file is worth decoding."""
    if info.seconds < min_seconds:
        return Verdict(Reason.TOO_SHORT, "the whole source is too short", info.seconds, min_seconds)
    if info.rate < thresholds.min_rate:
        return Verdict(Reason.LOW_RATE, "too few pictures per second", info.rate, thresholds.min_rate)
    side = min(info.width, info.height)
    if side < thresholds.min_picture:
        return Verdict(Reason.TOO_SMALL, "the picture is too small", side, thresholds.min_picture)
    return None


def judge_stretch(
    stretch: Stretch, counts: np.ndarray, heights: np.ndarray, fps: float, min_seconds: float, thresholds: Thresholds
) -> Verdict | None:
    """None where the stretch has one face for long enough.

    counts (F,): faces that the detector saw; heights (F,): the tallest of them in source pixels, NaN for none.
    """
    seconds = (stretch.stop - stretch.start) / fps
    if stretch.state is State.GAP:
        return Verdict(Reason.UNREADABLE, "its pictures are missing or corrupt", seconds)
    if stretch.state is State.MANY:
        faces = float(np.median(counts[stretch.start : stretch.stop]))
        return Verdict(Reason.MANY_FACES, "several faces at once", faces, 1)
    if stretch.state is State.NONE:
        seen = heights[stretch.start : stretch.stop]
        seen = seen[np.isfinite(seen)]
        share = len(seen) / (stretch.stop - stretch.start)
        if share > 0.5 and np.median(seen) < thresholds.min_face:
            return Verdict(Reason.FACE_TOO_SMALL, "the face is too small", float(np.median(seen)), thresholds.min_face)
        return Verdict(Reason.NO_FACE, "no face that can be followed", 0.0, thresholds.min_detection_rate)
    if seconds < min_seconds - 0.5 / fps:
        return Verdict(Reason.TOO_SHORT, "one face, but not for long enough", seconds, min_seconds)
    return None


def judge_clip(detection_rate: float, face_size: float, thresholds: Thresholds) -> Verdict | None:
    """None where the clip is good."""
    if detection_rate < thresholds.min_detection_rate:
        return Verdict(Reason.NO_FACE, "the face is lost too often", detection_rate, thresholds.min_detection_rate)
    if face_size < thresholds.min_face:
        return Verdict(Reason.FACE_TOO_SMALL, "the face is too small", face_size, thresholds.min_face)
    return None


def sound_state(
    has_sound: bool, loudness: float, speech_ratio: float, mouth: np.ndarray, thresholds: Thresholds
) -> SoundState:
    """What may be learned from the clip's sound. mouth (F,): how far it is open, in face heights."""
    if not has_sound:
        return SoundState.ABSENT
    if loudness < thresholds.silent_below:
        return SoundState.SILENT
    if speech_ratio >= 0.5 and np.nanstd(mouth) < thresholds.still_mouth:
        return SoundState.FOREIGN
    return SoundState.VOICE
