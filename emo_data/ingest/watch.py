"""One chunk of a video in, rows without audio features out. Pure and without torch: a child that may die runs it."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from emo_data.container import Unreadable
from emo_data.ingest.accept import Verdict, judge_clip, judge_source, judge_stretch
from emo_data.ingest.clip import ClipRow, Watched, clip_row, watched
from emo_data.ingest.config import IngestConfig
from emo_data.ingest.plan import Chunk, Survey, View, view_of
from emo_data.ingest.scan import scan
from emo_data.ingest.split import Span, cut_into_clips, frame_states, own_part, stretches
from emo_data.schema import Reason
from emo_data.video import DecoderFailed, NoVideo, TooLarge, VideoInfo, decoders, probe

BRIDGE_SECONDS = 0.4
"""A face that is lost for no longer than this stays one clip, with NaN in those frames."""
_WARM_UP = 13
"""Frames after which the cut detector has forgotten where it started."""

Beat = Callable[[], None]


class RejectionRow(dict[str, Any]):
    """A row of schema.REJECTION_SCHEMA."""


@dataclass(frozen=True)
class Rows:
    """What came of a chunk, in order of time."""

    clips: list[ClipRow]
    rejections: list[RejectionRow]


def survey_video(path: Path, sha256: str, config: IngestConfig, beat: Beat) -> Survey:
    """What is in a file, or why it is useless. What is wrong with the file becomes a verdict, here and only here."""
    try:
        info = probe(path, beat)
    except NoVideo as error:
        return Survey(sha256, refused=Verdict(Reason.NO_VIDEO, str(error)))
    except TooLarge as error:
        return Survey(sha256, refused=Verdict(Reason.TOO_LARGE, str(error)))
    except Unreadable as error:
        return Survey(sha256, refused=Verdict(Reason.UNREADABLE, str(error)))
    verdict = judge_source(info, config.min_seconds, config.thresholds)
    # Without a steady rate there are no moments to count: three pictures in twenty hours are 1.8 million.
    frames = 0 if verdict else len(info.at_rate(config.fps))
    return Survey(sha256, float(info.times[0]), info.seconds, frames, verdict)


def watch(path: Path, chunk: Chunk, config: IngestConfig, beat: Beat) -> Rows:
    """Every clip and every rejection of a chunk. Any exception is a fault of ours."""
    try:
        info = probe(path, beat)
        rows = list(_rows(_looked_through(info, chunk, view_of(chunk, config), config, beat), chunk, config, beat))
    except (Unreadable, DecoderFailed) as error:
        start, seconds = chunk.start / config.fps, (chunk.stop - chunk.start) / config.fps
        return Rows([], [rejection(chunk.name, chunk.sha256, Verdict(Reason.UNREADABLE, str(error)), start, seconds)])
    return Rows(
        [row for row in rows if isinstance(row, ClipRow)], [row for row in rows if isinstance(row, RejectionRow)]
    )


def rejection(
    source: str,
    sha256: str,
    verdict: Verdict,
    start: float = 0.0,
    seconds: float = 0.0,
    picture: np.ndarray | None = None,
) -> RejectionRow:
    """The row that says why a source, or a stretch of it, is no clip. picture: RGB uint8, small."""
    return RejectionRow(
        source=source,
        source_sha256=sha256,
        start_seconds=start,
        end_seconds=start + seconds,
        reason=verdict.reason.value,
        measured=verdict.measured,
        threshold=verdict.threshold,
        detail=verdict.detail,
        picture=None if picture is None else _as_jpeg(picture),
    )


def _as_jpeg(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _looked_through(info: VideoInfo, chunk: Chunk, view: View, config: IngestConfig, beat: Beat) -> Watched:
    """Look through the view with the first decoder that can read it."""
    all_frames = info.at_rate(config.fps)
    grid = all_frames[view.start : view.stop]
    before = all_frames[max(view.start - _WARM_UP, chunk.first) : view.start]
    forget = None if view.forget is None else view.forget - view.start
    *preferred, last = decoders(info)
    for decoder in preferred:
        try:
            seen = scan(info, grid, decoder, config.thresholds.rival_share, before, forget, beat)
        except DecoderFailed:
            continue  # the last one reads what can be read
        return watched(info, grid, view.start, decoder, seen, config.fps)
    seen = scan(info, grid, last, config.thresholds.rival_share, before, forget, beat)
    return watched(info, grid, view.start, last, seen, config.fps)


def _rows(source: Watched, chunk: Chunk, config: IngestConfig, beat: Beat) -> Iterator[ClipRow | RejectionRow]:
    seen, fps, thresholds = source.scan, config.fps, config.thresholds
    found = np.isfinite(seen.box[:, 0])
    height = seen.box[:, 3] - seen.box[:, 1]
    shortest, longest = round(config.min_seconds * fps), round(config.max_seconds * fps)

    def refuse(verdict: Verdict, start: int, stop: int) -> RejectionRow:
        shown = [seen.thumbnails[frame] for frame in sorted(seen.thumbnails) if start <= frame < stop]
        begin = source.seconds(start, fps)
        picture = shown[len(shown) // 2] if shown else None
        return rejection(chunk.name, chunk.sha256, verdict, begin, (stop - start) / fps, picture)

    own = Span(chunk.start - source.offset, chunk.stop - source.offset)
    unit = Span(chunk.first - source.offset, chunk.last - source.offset)
    states = frame_states(seen.picture, found, seen.many, seen.shot, round(BRIDGE_SECONDS * fps))
    for whole in stretches(states, seen.shot):
        stretch = own_part(whole, own, unit, shortest)
        if stretch is None:
            continue
        verdict = judge_stretch(stretch, seen.counts, seen.tallest, fps, config.min_seconds, thresholds)
        if verdict:
            yield refuse(verdict, stretch.start, stretch.stop)
            continue
        stop = stretch.start
        for start, stop in cut_into_clips(stretch.start, stretch.stop, shortest, longest):
            known = found[start:stop]
            size = float(np.median(height[start:stop][known])) if known.any() else 0.0
            verdict = judge_clip(float(known.mean()), size, thresholds)
            yield refuse(verdict, start, stop) if verdict else clip_row(source, chunk, start, stop, config, beat)
        if stop < stretch.stop:
            rest = (stretch.stop - stop) / fps
            short = Verdict(Reason.TOO_SHORT, "the rest of a stretch that was cut", rest, config.min_seconds)
            yield refuse(short, stop, stretch.stop)
