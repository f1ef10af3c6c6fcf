"""One accepted clip becomes one row: crop, encode, cut the sound, measure.

Legend: F frames of the clip, S samples, as in schema.py.
"""

import hashlib
import io
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from emo_data.features import quality
from emo_data.features.audio import AudioEncoder
from emo_data.features.framing import Square, boxes_in_square, crop, frame_face
from emo_data.features.pose import Pose, fit_pose, mouth_opening, rotation_speed, to_angles
from emo_data.ingest.accept import sound_state
from emo_data.ingest.config import IngestConfig
from emo_data.ingest.scan import Scan
from emo_data.schema import SAMPLE_RATE, SCHEMA_VERSION, SoundState, Split
from emo_data.sound import sound_between
from emo_data.video import Decoder, VideoInfo, encode_video, read_pictures

_JUDGED_EVERY = 5
"""Sharpness and brightness change slowly: every fifth frame is enough."""


class ClipRow(dict[str, Any]):
    """A row of schema.CLIP_SCHEMA."""


@dataclass(frozen=True)
class Watched:
    """A source that was looked through once. Pose and speed are those of all its frames."""

    name: str
    sha256: str
    info: VideoInfo
    grid: np.ndarray
    decoder: Decoder
    scan: Scan
    pose: Pose
    speed: np.ndarray


def watched(
    name: str, sha256: str, info: VideoInfo, grid: np.ndarray, decoder: Decoder, scan: Scan, fps: float
) -> Watched:
    """Fit pose over all frames and speed shot by shot: smoothing then sees beyond a clip's ends, but not past a cut."""
    pose = fit_pose(scan.rigid, info.width, info.height)
    speed = np.full(len(grid), np.nan, dtype=np.float32)
    for frames in np.split(np.arange(len(grid)), np.flatnonzero(np.diff(scan.shot)) + 1):
        speed[frames] = rotation_speed(pose.rotation[frames], fps)
    return Watched(name, sha256, info, grid, decoder, scan, pose, speed)


def clip_row(source: Watched, start: int, stop: int, config: IngestConfig, encoder: AudioEncoder) -> ClipRow:
    """The row of frames start to stop."""
    part = slice(start, stop)
    begin = source.info.times[0] + start / config.fps
    identity = identity_of(source.name, config.identity_pattern)
    square = frame_face(source.scan.box[part], source.info.width, source.info.height)
    mouth = mouth_opening(source.scan.mouth[part])
    row = ClipRow(
        clip_id=f"{source.sha256[:16]}-{round(begin * 1000):08d}",
        source=source.name,
        source_sha256=source.sha256,
        start_seconds=begin,
        end_seconds=begin + (stop - start) / config.fps,
        identity=identity,
        split=split_of(identity, config.test_share),
        fps=config.fps,
        size=config.size,
        frames=stop - start,
        tools=tools(source.decoder),
    )
    return ClipRow(
        row
        | _geometry(source, part, square)
        | {"mouth_opening": mouth, "speed": source.speed[part]}
        | _pictures(source, part, square, config)
        | _sound(source, begin, mouth, config, encoder)
    )


def _geometry(source: Watched, part: slice, square: Square) -> dict[str, Any]:
    boxes, pose = source.scan.box[part], source.pose
    angles = to_angles(pose.rotation[part])
    place = np.column_stack([pose.centre[part] - (square.x, square.y), pose.scale[part]]) / square.side
    low, high = np.nanpercentile(angles[:, 0], [5, 95])
    return {
        "box": boxes_in_square(boxes, square),
        "rotation": angles,
        "translation": place.astype(np.float32),
        "yaw_range": float(high - low),
        "detection_rate": float(np.isfinite(boxes[:, 0]).mean()),
        "face_size": float(np.nanmedian(boxes[:, 3] - boxes[:, 1])),
    }


def _pictures(source: Watched, part: slice, square: Square, config: IngestConfig) -> dict[str, Any]:
    """Encode the crops and measure every fifth of them as it passes; one picture is held at a time."""
    if source.scan.pictures is not None:
        pictures = iter(source.scan.pictures[part])
    else:
        pictures = read_pictures(source.info, source.grid[part], source.decoder)
    boxes = boxes_in_square(source.scan.box[part], square)
    sharp: list[float] = []
    bright: list[float] = []

    def crops() -> Any:
        for frame, picture in enumerate(pictures):
            assert picture is not None  # a clip has no gaps: split ends it there
            small = crop(picture, square, config.size)
            if frame % _JUDGED_EVERY == 0 and np.isfinite(boxes[frame, 0]):
                sharp.append(quality.sharpness(small, boxes[frame]))
                bright.append(quality.brightness(small, boxes[frame]))
            yield small

    video = io.BytesIO()
    encode_video(video, crops(), config.fps)
    return {
        "video": video.getvalue(),
        "sharpness": float(np.median(sharp)) if sharp else float("nan"),
        "brightness": float(np.mean(bright)) if bright else float("nan"),
    }


def _sound(
    source: Watched, begin: float, mouth: np.ndarray, config: IngestConfig, encoder: AudioEncoder
) -> dict[str, Any]:
    frames, has_sound = len(mouth), source.info.has_sound
    sound = np.zeros(round(frames / config.fps * SAMPLE_RATE), dtype=np.float32)
    if has_sound:
        sound = sound_between(source.info.path, begin, frames / config.fps)
    loudness = quality.loudness(sound)
    state = sound_state(has_sound, loudness, config.thresholds)
    features = np.zeros(0, dtype=np.float16)
    if state is not SoundState.ABSENT:
        features = encoder.encode(sound, frames, config.fps)
    return {
        "sound": np.round(np.clip(sound, -1, 1) * 32767).astype(np.int16),
        "sound_state": state.value,
        "audio_features": features.reshape(-1),
        "audio_layers": np.array(encoder.layers, dtype=np.int32),
        "audio_width": encoder.width,
        "audio_extractor": encoder.fingerprint,
        "loudness": loudness,
        "mouth_sound_correlation": quality.mouth_sound_correlation(mouth, sound, config.fps),
    }


def identity_of(source: str, pattern: str | None) -> str:
    """The file's name without its ending, or what the pattern's group finds in it."""
    name = Path(source).stem
    found = re.search(pattern, name) if pattern else None
    return found.group(1) if found else name


def split_of(identity: str, test_share: float) -> str:
    """By hash of the identity, so that none is on both sides, in this dataset or another (EMO 4.1)."""
    place = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big") / 2**64
    return (Split.TEST if place < test_share else Split.TRAIN).value


@lru_cache
def tools(decoder: Decoder) -> str:
    """JSON: what measured a row, with versions."""
    names = {"decord": "decord", "pyav": "av"}
    packages = ["mediapipe", "av", "torch", "transformers", "opencv-contrib-python"]
    found = {name: version(name) for name in packages}
    return json.dumps({"schema": SCHEMA_VERSION, "decoder": f"{decoder} {version(names[decoder])}"} | found)
