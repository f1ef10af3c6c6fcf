"""One source in, rows out. Pure: no cluster, no global state, nothing written; the same in one process and in many."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from emo_data.container import Unreadable
from emo_data.features.audio import AudioEncoder
from emo_data.ingest.accept import Verdict, judge_clip, judge_source, judge_stretch
from emo_data.ingest.clip import ClipRow, Watched, clip_row, watched
from emo_data.ingest.config import IngestConfig
from emo_data.ingest.scan import scan
from emo_data.ingest.split import cut_into_clips, frame_states, stretches
from emo_data.schema import Reason
from emo_data.video import DecoderFailed, NoVideo, VideoInfo, decoders, probe

BRIDGE_SECONDS = 0.4
"""A face that is lost for no longer than this stays one clip, with NaN in those frames."""


class RejectionRow(dict[str, Any]):
    """A row of schema.REJECTION_SCHEMA."""


def content_hash(path: Path) -> str:
    """sha256 of the file. Raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def ingest_source(
    source: str, sha256: str, config: IngestConfig, encoder: AudioEncoder
) -> Iterator[ClipRow | RejectionRow]:
    """Every clip and every rejection of one source, in order of time.

    What is wrong with the file itself becomes a rejection, here and only here; any other exception is a fault of ours.
    """
    try:
        info = probe(Path(source))
        verdict = judge_source(info, config.min_seconds, config.thresholds)
        if verdict:
            yield rejection(source, sha256, verdict, float(info.times[0]), info.seconds)
        else:
            yield from _clips(_watch(source, sha256, info, config), config, encoder)
    except NoVideo as error:
        yield rejection(source, sha256, Verdict(Reason.NO_VIDEO, str(error)))
    except (Unreadable, DecoderFailed) as error:
        yield rejection(source, sha256, Verdict(Reason.UNREADABLE, str(error)))


def rejection(source: str, sha256: str, verdict: Verdict, start: float = 0.0, seconds: float = 0.0) -> RejectionRow:
    """The row that says why a source, or a stretch of it, is no clip."""
    return RejectionRow(
        source=source,
        source_sha256=sha256,
        start_seconds=start,
        end_seconds=start + seconds,
        reason=verdict.reason.value,
        measured=verdict.measured,
        threshold=verdict.threshold,
        detail=verdict.detail,
    )


def _watch(source: str, sha256: str, info: VideoInfo, config: IngestConfig) -> Watched:
    """Look through the source with the first decoder that can read it."""
    grid = info.at_rate(config.fps)
    *preferred, last = decoders(info)
    for decoder in preferred:
        try:
            seen = scan(info, grid, decoder, config.thresholds.rival_share)
        except DecoderFailed:
            continue  # the last one reads what can be read
        return watched(source, sha256, info, grid, decoder, seen, config.fps)
    seen = scan(info, grid, last, config.thresholds.rival_share)
    return watched(source, sha256, info, grid, last, seen, config.fps)


def _clips(source: Watched, config: IngestConfig, encoder: AudioEncoder) -> Iterator[ClipRow | RejectionRow]:
    seen, fps, thresholds = source.scan, config.fps, config.thresholds
    found = np.isfinite(seen.box[:, 0])
    height = seen.box[:, 3] - seen.box[:, 1]
    shortest, longest = round(config.min_seconds * fps), round(config.max_seconds * fps)

    def refuse(verdict: Verdict, start: int, stop: int) -> RejectionRow:
        begin = float(source.info.times[0]) + start / fps
        return rejection(source.name, source.sha256, verdict, begin, (stop - start) / fps)

    states = frame_states(seen.picture, found, seen.many, seen.shot, round(BRIDGE_SECONDS * fps))
    for stretch in stretches(states, seen.shot):
        verdict = judge_stretch(stretch, seen.counts, seen.tallest, fps, config.min_seconds, thresholds)
        if verdict:
            yield refuse(verdict, stretch.start, stretch.stop)
            continue
        stop = stretch.start
        for start, stop in cut_into_clips(stretch.start, stretch.stop, shortest, longest):
            known = found[start:stop]
            size = float(np.median(height[start:stop][known])) if known.any() else 0.0
            verdict = judge_clip(float(known.mean()), size, thresholds)
            yield refuse(verdict, start, stop) if verdict else clip_row(source, start, stop, config, encoder)
        if stop < stretch.stop:
            rest = (stretch.stop - stop) / fps
            short = Verdict(Reason.TOO_SHORT, "the rest of a stretch that was cut", rest, config.min_seconds)
            yield refuse(short, stop, stretch.stop)
