"""Pictures out of files. decord decodes, PyAV where decord cannot; PyAV probes.

Legend: F frames, H W pixels. Pictures are RGB uint8 (H, W, 3), upright and with square pixels. Times are
seconds in the file's own time, by presentation time stamp (pts), never by index.
"""

import importlib.util
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Literal

import av
import numpy as np

from emo_data.container import chosen, frames_of, packets, reading, undamaged_frames

Decoder = Literal["decord", "pyav"]
MAX_PIXELS = 40_000_000
"""Of one picture, 8K (33 million) and a bit. A head of 30 bytes can claim 3600 million."""
MAX_GAP = 0.1
"""Seconds. A moment that is farther than this from every picture has no picture."""
_JUMP = 2.0
"""Seconds. A longer way to the next wanted picture is a seek, a shorter one is decoded through."""


class NoVideo(Exception):
    """The file can be opened but holds no picture with a time stamp."""


class TooLarge(Exception):
    """Its pictures have more pixels than any camera's: decoding one would take gigabytes."""


class DecoderFailed(Exception):
    """decord gave up on a file (or would have repeated pictures over its corrupt ones): PyAV may still read it."""


@dataclass(frozen=True)
class VideoInfo:
    """What a file holds, from its packets, with one picture decoded.

    width, height: as shown. turned: quarter turns, anticlockwise, from coded to shown. stretch: width of a coded pixel
    over its height. pts: int64 (N,) of all pictures, ascending.
    """

    path: Path
    width: int
    height: int
    turned: int
    stretch: float
    pts: np.ndarray
    time_base: Fraction
    streams: int
    has_sound: bool

    @property
    def times(self) -> np.ndarray:
        """float64 (N,): when each picture appears."""
        return self.pts * float(self.time_base)

    @property
    def rate(self) -> float:
        """Pictures per second, on average; 0 for a single picture."""
        return float((len(self.pts) - 1) / np.ptp(self.times)) if len(self.pts) > 1 else 0.0

    @property
    def seconds(self) -> float:
        """From the first picture's appearance to the last one's end."""
        return len(self.pts) / self.rate if self.rate else 0.0

    def at_rate(self, fps: float) -> np.ndarray:
        """int64 (F,): for moment k / fps after the first picture, which picture is nearest in time; -1 for none."""
        times = self.times
        moments = times[0] + np.arange(max(1, int(self.seconds * fps + 0.5))) / fps
        after = np.searchsorted(times, moments).clip(0, len(times) - 1)
        before = np.maximum(after - 1, 0)
        nearest = np.where(times[after] - moments < moments - times[before] + 1e-6, after, before)
        return np.where(np.abs(times[nearest] - moments) <= MAX_GAP, nearest, -1)


def probe(path: Path, beat: Callable[[], None] = lambda: None) -> VideoInfo:
    """Read a file's packets, with a `beat` at each. Raises NoVideo, TooLarge or Unreadable."""
    with reading(path) as container:
        stream = chosen(container.streams.video)
        if stream is None or stream.time_base is None:
            raise NoVideo("it has no video stream")
        coded = stream.codec_context
        if coded is None:
            raise NoVideo("nothing here can decode its video stream")
        if coded.width * coded.height > MAX_PIXELS:
            raise TooLarge(f"its pictures have {coded.width} x {coded.height} pixels")
        coded.thread_count = 1
        pts: set[int] = set()
        first: av.VideoFrame | None = None
        for packet in packets(container, stream):
            beat()
            if packet.pts is not None and packet.size and not packet.is_discard and not packet.is_corrupt:
                pts.add(packet.pts)
            if first is None:
                first = next(frames_of(packet), None)
        if first is None or not pts:
            raise NoVideo("none of its pictures can be decoded, or none has a time stamp")
        stretch = float(stream.sample_aspect_ratio or 1)
        shown = (round(first.width * stretch), first.height)
        turned = round(first.rotation / 90) % 4
        width, height = shown[::-1] if turned % 2 else shown
        return VideoInfo(
            path=path,
            width=width,
            height=height,
            turned=turned,
            stretch=stretch,
            pts=np.array(sorted(pts), dtype=np.int64),
            time_base=Fraction(stream.time_base),
            streams=len(container.streams.video),
            has_sound=chosen(container.streams.audio) is not None,
        )


def decoders(info: VideoInfo) -> list[Decoder]:
    """Which decoders to try, in order.

    decord picks the largest of several streams where we want the first, and cannot open a name that is not UTF-8.
    """
    plain = info.streams == 1 and str(info.path).isprintable()
    return ["decord", "pyav"] if plain and importlib.util.find_spec("decord") else ["pyav"]


def read_pictures(info: VideoInfo, indices: np.ndarray, decoder: Decoder) -> Iterator[np.ndarray | None]:
    """One picture for each of the ascending indices into `info.pts`; None for -1 and for what is corrupt.

    Holds one picture at a time. Raises DecoderFailed (decord) or Unreadable (PyAV).
    """
    read = _read_decord if decoder == "decord" else _read_pyav
    last, picture = -1, None
    wanted = indices[indices >= 0]
    fresh = read(info, wanted[np.diff(wanted, prepend=-1) > 0])
    for index in indices:
        if index >= 0 and index != last:
            last, picture = index, next(fresh)
        yield picture if index >= 0 else None


def _read_decord(info: VideoInfo, indices: np.ndarray) -> Iterator[np.ndarray | None]:
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    try:
        # the smallest tolerance: repeating a picture over one corrupt picture is already a failure
        reader = decord.VideoReader(os.path.abspath(info.path), num_threads=1, fault_tol=1e-9)
        if len(reader) != len(info.pts):
            raise DecoderFailed(f"decord counts {len(reader)} pictures, not {len(info.pts)}")
        at = 0
        for index in indices:
            if index - at > _JUMP * max(info.rate, 1):
                reader.seek_accurate(int(index))
            elif index > at:
                reader.skip_frames(int(index) - at)
            yield _upright(reader.next().asnumpy(), info, turned=info.turned)
            at = int(index) + 1
    except (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError, StopIteration) as error:
        raise DecoderFailed(f"decord: {str(error).strip().partition(chr(10))[0]}") from error


def _read_pyav(info: VideoInfo, indices: np.ndarray) -> Iterator[np.ndarray | None]:
    with reading(info.path) as container:
        stream = chosen(container.streams.video)
        assert stream is not None  # probe found it
        stream.codec_context.thread_count = 1
        if len(indices) and (info.pts[indices[0]] - info.pts[0]) * info.time_base > _JUMP:
            container.seek(int(info.pts[indices[0]]), stream=stream)
        frames = undamaged_frames(packets(container, stream))
        frame = next(frames, None)
        for index in indices:
            while frame is not None and frame.pts is not None and frame.pts < info.pts[index]:
                frame = next(frames, None)
            if frame is None or frame.pts != info.pts[index]:
                yield None
            else:
                yield _upright(frame.to_ndarray(format="rgb24"), info, turned=0)


def _upright(picture: np.ndarray, info: VideoInfo, turned: int) -> np.ndarray:
    """Turn (where the decoder has not: decord does) and stretch a decoded picture to how it is shown."""
    picture = np.rot90(picture, info.turned - turned)
    if picture.shape[:2] != (info.height, info.width):
        import cv2

        picture = cv2.resize(np.ascontiguousarray(picture), (info.width, info.height), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(picture)


def decode_clip(video: bytes, frames: np.ndarray | None = None) -> np.ndarray:
    """Pictures of an encoded clip, RGB uint8 (F, H, W, 3): all of them, or those that `frames` numbers, ascending."""
    if importlib.util.find_spec("decord"):
        import decord

        reader = decord.VideoReader(io.BytesIO(video), num_threads=1)
        return reader.get_batch(range(len(reader)) if frames is None else frames.tolist()).asnumpy()
    with av.open(io.BytesIO(video), "r") as container:
        decoded = container.decode(video=0)
        if frames is None:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in decoded])
        wanted = set(frames.tolist())
        shown = islice(enumerate(decoded), int(frames[-1]) + 1)
        found = {number: frame.to_ndarray(format="rgb24") for number, frame in shown if number in wanted}
        return np.stack([found[number] for number in frames.tolist()])
