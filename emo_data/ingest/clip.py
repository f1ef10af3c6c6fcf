"""One accepted clip becomes one row: crop, encode, cut the sound, measure. Its audio features come later, see hear.py.

Legend: F frames of the clip, S samples, as in schema.py.
"""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np

from emo_data.features import quality
from emo_data.features.framing import Square, boxes_in_square, crop, frame_face
from emo_data.features.pose import Pose, fit_pose, mouth_opening, rotation_speed, to_angles
from emo_data.film import encode_video
from emo_data.ingest.accept import sound_state
from emo_data.ingest.config import IngestConfig
from emo_data.ingest.plan import Chunk
from emo_data.ingest.scan import Scan
from emo_data.schema import SAMPLE_RATE, SCHEMA_VERSION
from emo_data.sound import sound_between
from emo_data.video import Decoder, VideoInfo, read_pictures

_JUDGED_EVERY = 5
"""Sharpness and brightness change slowly: every fifth frame is enough."""
_BLUR_EVERY = 50


class ClipRow(dict[str, Any]):
    """A row of schema.CLIP_SCHEMA."""


@dataclass(frozen=True)
class Watched:
    """Frames of a source that were looked through once. Pose and speed are those of all of them.

    offset: number of the first of them in the whole source.
    """

    info: VideoInfo
    grid: np.ndarray
    offset: int
    decoder: Decoder
    scan: Scan
    pose: Pose
    speed: np.ndarray

    def seconds(self, frame: int, fps: float) -> float:
        """When a frame is shown, in the source's own time."""
        return float(self.info.times[0] + (self.offset + frame) / fps)


def watched(info: VideoInfo, grid: np.ndarray, offset: int, decoder: Decoder, scan: Scan, fps: float) -> Watched:
    """Fit pose over all frames and speed shot by shot: smoothing then sees beyond a clip's ends, but not past a cut."""
    pose = fit_pose(scan.rigid, info.width, info.height)
    speed = np.full(len(grid), np.nan, dtype=np.float32)
    for frames in np.split(np.arange(len(grid)), np.flatnonzero(np.diff(scan.shot)) + 1):
        speed[frames] = rotation_speed(pose.rotation[frames], fps)
    return Watched(info, grid, offset, decoder, scan, pose, speed)


def clip_row(
    source: Watched, chunk: Chunk, start: int, stop: int, config: IngestConfig, beat: Callable[[], None]
) -> ClipRow:
    """The row of frames start to stop, without its audio features."""
    part = slice(start, stop)
    begin, end = source.seconds(start, config.fps), source.seconds(stop, config.fps)
    square = frame_face(source.scan.box[part], source.info.width, source.info.height)
    mouth = mouth_opening(source.scan.mouth[part])
    row = ClipRow(
        clip_id=f"{chunk.sha256[:16]}-{round(begin * 1000):08d}-{round(end * 1000):08d}",
        source=chunk.name,
        source_sha256=chunk.sha256,
        start_seconds=begin,
        end_seconds=end,
        identity=chunk.identity,
        split=chunk.split,
        fps=config.fps,
        size=config.size,
        frames=stop - start,
        sync_offset=None,
        sync_confidence=None,
        tools=tools(source.decoder),
    )
    return ClipRow(
        row
        | _geometry(source, part, square)
        | {"mouth_opening": mouth, "speed": source.speed[part]}
        | _pictures(source, part, square, config, beat)
        | _sound(source, begin, mouth, config)
        | unheard()
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


def _pictures(
    source: Watched, part: slice, square: Square, config: IngestConfig, beat: Callable[[], None]
) -> dict[str, Any]:
    """Encode the crops and measure some of them as they pass; one picture is held at a time."""
    if source.scan.pictures is not None:
        pictures = iter(source.scan.pictures[part])
    else:
        pictures = read_pictures(source.info, source.grid[part], source.decoder)
    boxes = boxes_in_square(source.scan.box[part], square)
    sharp: list[float] = []
    bright: list[float] = []
    blurred: list[float] = []

    def crops() -> Any:
        for frame, picture in enumerate(pictures):
            assert picture is not None  # a clip has no gaps: split ends it there
            beat()
            small = crop(picture, square, config.size)
            if frame % _JUDGED_EVERY == 0 and np.isfinite(boxes[frame, 0]):
                sharp.append(quality.sharpness(small, boxes[frame]))
                bright.append(quality.brightness(small, boxes[frame]))
                if not blurred or frame % _BLUR_EVERY == 0:
                    blurred.append(quality.blur(small, boxes[frame]))
            yield small

    video = io.BytesIO()
    encode_video(video, crops(), config.fps)
    return {
        "video": video.getvalue(),
        "sharpness": float(np.median(sharp)) if sharp else float("nan"),
        "brightness": float(np.mean(bright)) if bright else float("nan"),
        "blur": float(np.median(blurred)) if blurred else float("nan"),
    }


def _sound(source: Watched, begin: float, mouth: np.ndarray, config: IngestConfig) -> dict[str, Any]:
    frames, has_sound = len(mouth), source.info.has_sound
    sound = np.zeros(round(frames / config.fps * SAMPLE_RATE), dtype=np.float32)
    if has_sound:
        sound = sound_between(source.info.path, begin, frames / config.fps)
    loudness, ratio = quality.loudness(sound), quality.speech_ratio(sound, frames, config.fps)
    return {
        "sound": np.round(np.clip(sound, -1, 1) * 32767).astype(np.int16),
        "sound_state": sound_state(has_sound, loudness, ratio, mouth, config.thresholds).value,
        "loudness": loudness,
        "speech_ratio": ratio,
        "mouth_sound_correlation": quality.mouth_sound_correlation(mouth, sound, config.fps),
    }


def unheard() -> dict[str, Any]:
    """What a row holds in place of audio features until `hear` has come."""
    return {
        "audio_features": np.zeros(0, dtype=np.float16),
        "audio_layers": np.zeros(0, dtype=np.int32),
        "audio_width": 0,
        "audio_extractor": "",
    }


@lru_cache
def tools(decoder: Decoder) -> str:
    """JSON: what measured a row, with versions."""
    names = {"decord": "decord", "pyav": "av"}
    packages = ["mediapipe", "av", "torch", "transformers", "opencv-contrib-python"]
    found = {name: version(name) for name in packages}
    return json.dumps({"schema": SCHEMA_VERSION, "decoder": f"{decoder} {version(names[decoder])}"} | found)
