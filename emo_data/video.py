"""Pictures and sound in and out of files. decord decodes, PyAV where decord cannot; PyAV probes, encodes, reads sound.

Legend: F frames, H W pixels, S samples. Pictures are RGB uint8 (H, W, 3), upright and with square pixels. Times are
seconds in the file's own time, by presentation time stamp (pts), never by index.
"""

import importlib.util
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np

from emo_data.errors import UserError
from emo_data.schema import SAMPLE_RATE

Decoder = Literal["decord", "pyav"]
MAX_GAP = 0.1
"""Seconds. A moment that is farther than this from every picture has no picture."""
_SOUND_GAP = 0.02
"""Seconds by which a block of sound may miss its time stamp before it is moved to where the stamp says."""
_JUMP = 2.0
"""Seconds. A longer way to the next wanted picture is a seek, a shorter one is decoded through."""


class NoVideo(Exception):
    """The file can be opened but holds no picture with a time stamp."""


class Unreadable(Exception):
    """The file cannot be opened or decoded."""


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


def probe(path: Path) -> VideoInfo:
    """Read a file's packets. Raises NoVideo or Unreadable."""
    with _reading(path) as container:
        stream = _chosen(container.streams.video)
        if stream is None or stream.time_base is None:
            raise NoVideo(f"{path.name} has no video stream")
        pts: set[int] = set()
        first: av.VideoFrame | None = None
        for packet in _packets(container, stream):
            if packet.pts is not None and packet.size and not packet.is_discard and not packet.is_corrupt:
                pts.add(packet.pts)
            if first is None:
                first = next(_frames(packet), None)
        if first is None or not pts:
            raise NoVideo(f"no picture in {path.name} can be decoded, or none has a time stamp")
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
            has_sound=_chosen(container.streams.audio) is not None,
        )


def decoders(info: VideoInfo) -> list[Decoder]:
    """Which decoders to try, in order. decord picks the largest of several streams, we want the first: PyAV does."""
    return ["decord", "pyav"] if info.streams == 1 and importlib.util.find_spec("decord") else ["pyav"]


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
        reader = decord.VideoReader(str(info.path), num_threads=1, fault_tol=1e-9)
        if len(reader) != len(info.pts):
            raise DecoderFailed(f"decord counts {len(reader)} pictures in {info.path.name}, not {len(info.pts)}")
        at = 0
        for index in indices:
            if index - at > _JUMP * max(info.rate, 1):
                reader.seek_accurate(int(index))
            elif index > at:
                reader.skip_frames(int(index) - at)
            yield _upright(reader.next().asnumpy(), info, turned=info.turned)
            at = int(index) + 1
    except (decord.DECORDError, RuntimeError, StopIteration) as error:
        raise DecoderFailed(f"decord: {str(error).strip().splitlines()[0]}") from error


def _read_pyav(info: VideoInfo, indices: np.ndarray) -> Iterator[np.ndarray | None]:
    with _reading(info.path) as container:
        stream = _chosen(container.streams.video)
        assert stream is not None  # probe found it
        stream.codec_context.thread_count = 1
        if len(indices) and (info.pts[indices[0]] - info.pts[0]) * info.time_base > _JUMP:
            container.seek(int(info.pts[indices[0]]), stream=stream)
        frames = (frame for packet in _packets(container, stream) for frame in _frames(packet))
        frame = next(frames, None)
        for index in indices:
            while frame is not None and frame.pts is not None and frame.pts < info.pts[index]:
                frame = next(frames, None)
            if frame is None or frame.pts != info.pts[index] or frame.is_corrupt:
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


class _Run:
    """Sound without a gap, resampled to 16 kHz mono as it comes."""

    def __init__(self, time: float) -> None:
        self.time = time
        self.heard = time  # the time up to which sound came in
        self._resampler = av.AudioResampler(format="fltp", rate=SAMPLE_RATE)
        self._blocks: list[np.ndarray] = []

    def add(self, frame: av.AudioFrame | None) -> None:
        """None flushes. A plain mean over channels: never louder than the loudest of them."""
        self._blocks.extend(
            block.to_ndarray().mean(axis=0, dtype=np.float32) for block in self._resampler.resample(frame)
        )
        if frame is not None:
            self.heard += frame.samples / frame.sample_rate

    def samples(self) -> np.ndarray:
        """float32 (S,)."""
        self.add(None)
        return np.concatenate([np.zeros(0, dtype=np.float32), *self._blocks])


def sound_between(path: Path, start: float | None = None, seconds: float | None = None) -> np.ndarray:
    """Mono sound at 16 kHz, float32 (S,): from `start` in the file's own time (None: its first sample) for `seconds`.

    Where the file has no sound at those times there are zeros, so S = round(seconds * 16000) always; None reads to the
    end. Raises Unreadable, also where there is no sound stream or samples are not numbers.
    """
    runs: list[_Run] = []
    with _reading(path) as container:
        stream = _chosen(container.streams.audio)
        if stream is None:
            raise Unreadable("there is no sound in it")
        if start is not None and stream.time_base is not None and start > 1:
            container.seek(int((start - 1) / stream.time_base), stream=stream)  # earlier: a decoder needs a run-up
        for frame in (frame for packet in _packets(container, stream) for frame in _frames(packet)):
            time = frame.time if frame.time is not None else (runs[-1].heard if runs else 0.0)
            if start is not None and seconds is not None and time > start + seconds:
                break
            if not runs or abs(time - runs[-1].heard) > _SOUND_GAP:
                runs.append(_Run(time))
            runs[-1].add(frame)
    begin = start if start is not None else (runs[0].time if runs else 0.0)
    sound = _laid_out([(round((run.time - begin) * SAMPLE_RATE), run.samples()) for run in runs], seconds)
    if not np.isfinite(sound).all():
        raise Unreadable("some of its samples are not numbers (NaN or infinite)")
    return sound


def _laid_out(runs: list[tuple[int, np.ndarray]], seconds: float | None) -> np.ndarray:
    """Each run of samples where its time says, and silence between."""
    end = max((at + len(samples) for at, samples in runs), default=0)
    sound = np.zeros(round(seconds * SAMPLE_RATE) if seconds is not None else max(end, 0), dtype=np.float32)
    for at, samples in runs:
        part = samples[max(-at, 0) :][: max(len(sound) - max(at, 0), 0)]
        sound[max(at, 0) : max(at, 0) + len(part)] = part
    return sound


def read_sound(path: Path) -> np.ndarray:
    """The whole of a sound file of any kind (or of a video's sound), 16 kHz mono, float32 (S,), S > 0. UserError."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such sound file")
    if not path.stat().st_size:
        raise UserError(f"{path}: the file is empty")
    try:
        sound = sound_between(path)
    except Unreadable as error:
        raise UserError(f"{path}: cannot be used as sound: {error}; give a WAV, MP3, M4A or FLAC with sound") from error
    if not len(sound):
        raise UserError(f"{path}: it holds no sound (zero length)")
    return sound


def encode_video(
    target: Path | io.BytesIO,
    frames: Iterable[np.ndarray],
    fps: float,
    sound: np.ndarray | None = None,
    sample_rate: int = SAMPLE_RATE,
    crf: int = 18,
    key_frame_seconds: float = 0.5,
    comment: str = "",
) -> None:
    """Write an mp4 (H.264, AAC).

    frames: RGB uint8 (H, W, 3), even H and W, all alike. sound: float32 mono in -1..1 or None. key_frame_seconds: half
    a second suits what is read in random windows; a video to be watched wants rare key frames: each is a small jump.
    """
    # Moving the index to the front means reading the file again, which only a file on disk allows.
    options = {"movflags": "+faststart"} if isinstance(target, Path) else {}
    with av.open(target, "w", format="mp4", options=options) as container:
        container.metadata["comment"] = comment
        rate = Fraction(fps).limit_denominator(1001)
        # With mbtree, x264 encodes pictures of less than 128 pixels a little differently each time; and equal sources
        # must give equal rows.
        how = {"crf": str(crf), "preset": "veryfast", "x264-params": "mbtree=0"}
        video = container.add_stream("libx264", rate=rate, options=how)
        video.pix_fmt = "yuv420p"
        video.codec_context.gop_size = max(1, round(fps * key_frame_seconds))
        audio = None
        if sound is not None:
            audio = container.add_stream("aac", rate=sample_rate, layout="mono")
        for index, picture in enumerate(frames):
            if index == 0:
                video.height, video.width = picture.shape[:2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if audio is not None and sound is not None:
            pcm = np.ascontiguousarray(sound, dtype=np.float32)[None]
            wave = av.AudioFrame.from_ndarray(pcm, format="fltp", layout="mono")
            wave.sample_rate = sample_rate
            wave.pts, wave.time_base = 0, Fraction(1, sample_rate)  # without them the sound comes a packet late
            container.mux(audio.encode(wave))
            container.mux(audio.encode())


def decode_clip(video: bytes) -> np.ndarray:
    """Every picture of an encoded clip, RGB uint8 (F, H, W, 3)."""
    if importlib.util.find_spec("decord"):
        reader = _clip_reader(video)
        return reader.get_batch(range(len(reader))).asnumpy()
    with av.open(io.BytesIO(video), "r") as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def decode_frames(video: bytes, indices: list[int] | np.ndarray) -> np.ndarray:
    """Some pictures of an encoded clip of constant rate, RGB uint8 (len(indices), H, W, 3), in the order asked for."""
    if not importlib.util.find_spec("decord"):
        return decode_clip(video)[np.asarray(indices)]
    return _clip_reader(video).get_batch([int(index) for index in indices]).asnumpy()


def _clip_reader(video: bytes) -> Any:
    import decord

    return decord.VideoReader(io.BytesIO(video), num_threads=1)


def _chosen(streams: Iterable[Any]) -> Any | None:
    """The default stream, else the first; a cover picture is no video."""
    real = [stream for stream in streams if not stream.disposition & av.stream.Disposition.attached_pic]
    default = [stream for stream in real if stream.disposition & av.stream.Disposition.default]
    return next(iter(default or real), None)


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """The opened container; whatever FFmpeg or the disk objects to becomes Unreadable."""
    try:
        with av.open(str(path)) as container:
            yield container
    except (av.error.FFmpegError, OSError) as error:
        raise Unreadable(error.strerror or str(error)) from error


def _packets(container: Any, stream: Any) -> Iterator[av.Packet]:
    """All packets up to the end or to where the file breaks off: a broken end leaves the readable part."""
    packets = container.demux(stream)
    while True:
        try:
            yield next(packets)
        except StopIteration:
            return
        except av.error.FFmpegError:
            return


def _frames(packet: Any) -> Iterator[Any]:
    """What one packet decodes to; a corrupt packet gives nothing, and its moment in time stays without a picture."""
    try:
        yield from packet.decode()
    except av.error.InvalidDataError:
        return
