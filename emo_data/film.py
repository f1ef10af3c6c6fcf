"""Pictures and sound into files: H.264 and AAC in an mp4, by PyAV.

Legend: H W pixels, S samples. Pictures are RGB uint8 (H, W, 3), H and W even, all of a video alike.
"""

import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Self

import av
import numpy as np
from av.bitstream import BitStreamFilterContext

from emo_data.schema import SAMPLE_RATE


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
    with video_encoder(target, fps, sound, sample_rate, crf, key_frame_seconds, comment) as add:
        for picture in frames:
            add(picture)


@contextmanager
def video_encoder(
    target: Path | io.BytesIO,
    fps: float,
    sound: np.ndarray | None = None,
    sample_rate: int = SAMPLE_RATE,
    crf: int = 18,
    key_frame_seconds: float = 0.5,
    comment: str = "",
    watcher: Callable[[av.VideoStream, av.Packet], None] | None = None,
) -> Iterator[Callable[[np.ndarray], None]]:
    """As `encode_video`, for frames that are handed over one by one. watcher: is told of each encoded one."""
    # Moving the index to the front means reading the file again, which only a file on disk allows.
    options = {"movflags": "+faststart"} if isinstance(target, Path) else {}
    place = _address(target) if isinstance(target, Path) else target
    with av.open(place, "w", format="mp4", options=options) as container:
        container.metadata["comment"] = comment
        rate = Fraction(fps).limit_denominator(1001)
        # With mbtree, x264 encodes pictures of less than 128 pixels a little differently each time, and equal sources
        # must give equal rows. Between frequent key frames it saves larger ones little. Threads change the bytes, too.
        told = "mbtree=0:threads=1:lookahead-threads=1:colormatrix=smpte170m"  # the last is what swscale makes of RGB
        how = {"crf": str(crf), "preset": "veryfast", "x264-params": told}
        video = container.add_stream("libx264", rate=rate, options=how)
        video.pix_fmt = "yuv420p"
        video.codec_context.gop_size = max(1, round(fps * key_frame_seconds))
        audio = None
        if sound is not None:
            audio = container.add_stream("aac", rate=sample_rate, layout="mono")

        def add(picture: np.ndarray) -> None:
            if not video.codec_context.is_open:
                video.height, video.width = picture.shape[:2]
            keep(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))

        def keep(packets: list[av.Packet]) -> None:
            for packet in packets:
                if watcher is not None:
                    container.start_encoding()  # from then on the stream says what a decoder must know
                    watcher(video, packet)
                container.mux(packet)

        yield add
        keep(video.encode())
        if audio is not None and sound is not None:
            container.mux(audio.encode(_wave(sound[None], 0, sample_rate)))
            container.mux(audio.encode())


def _address(path: Path) -> str:
    """FFmpeg takes what stands before a colon for a protocol."""
    return f"file:{path.absolute()}"


def join_videos(
    target: Path, parts: Sequence[Path], sound: Iterable[np.ndarray], sample_rate: int, metadata: Mapping[str, str]
) -> None:
    """Write an mp4 of the pictures of several, one after the other, as they are encoded, and a sound (AAC) over all.

    parts: written by `encode_video`, alike in size and settings. sound: float32 (2, n) each, stereo in -1..1.
    """
    with av.open(_address(target), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        container.metadata.update(metadata)
        with av.open(_address(parts[0])) as first:
            video = container.add_stream_from_template(first.streams.video[0])
        track = _Track(container, sound, sample_rate)
        start = 0
        for part in parts:
            with av.open(_address(part)) as source:
                stream = source.streams.video[0]
                assert stream.time_base is not None and stream.duration is not None  # encode_video wrote them
                end = start + stream.duration
                # Sound goes in beside its pictures: the muxer holds back what is ahead of the other stream.
                track.play(math.inf if part == parts[-1] else end * stream.time_base)
                for packet in source.demux(stream):
                    if packet.pts is not None and packet.dts is not None:  # the last one is empty
                        packet.pts, packet.dts, packet.stream = packet.pts + start, packet.dts + start, video
                        container.mux(packet)
                start = end


class _Track:
    """The sound of a film that is being written. See `join_videos`."""

    def __init__(self, container: av.container.OutputContainer, sound: Iterable[np.ndarray], sample_rate: int) -> None:
        self._heard: Fraction | float = -math.inf
        self._container, self._rate = container, sample_rate
        self._stream = container.add_stream("aac", rate=sample_rate, layout="stereo")
        self._packets = self._encoded(sound)

    def play(self, until: Fraction | float) -> None:
        """What begins before so many seconds, and the packet that follows it: infinity for all that there is."""
        while self._heard < until and (packet := next(self._packets, None)) is not None:
            assert packet.dts is not None and packet.time_base is not None  # all of ours have
            self._heard = packet.dts * packet.time_base
            self._container.mux(packet)

    def _encoded(self, sound: Iterable[np.ndarray]) -> Iterator[av.Packet]:
        begin = 0
        for block in sound:
            yield from self._stream.encode(_wave(block, begin, self._rate))
            begin += block.shape[1]
        yield from self._stream.encode()  # what the encoder holds back


class Premiere:
    """A fragmented mp4 that can be watched while it is being written: pictures as they are encoded, sound beside them.

    Its bytes depend on what is shown alone, not on when: who has read the beginning can go on with another copy.
    """

    def __init__(self, path: Path, fps: float, sound: Iterable[np.ndarray], sample_rate: int) -> None:
        """sound: see `join_videos`."""
        self._rate = Fraction(fps).limit_denominator(1001)
        self._sound, self._sample_rate = sound, sample_rate
        # A fragment for each packet, on the disk at once.
        options = {"movflags": "frag_every_frame+empty_moov+default_base_moof+skip_trailer", "flush_packets": "1"}
        options["write_btrt"] = "0"  # of what is repeated a rate would be known
        self._file = _Mutable(path.open("wb", buffering=0))
        self._container = av.open(self._file, "w", format="mp4", options=options)
        self._video: av.VideoStream | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *why: object) -> None:
        """Where the block failed nothing more is written, so that what is there is how a whole one begins."""
        self._file.mute = kind is not None
        if kind is None and self._video is not None:
            self._track.play(math.inf)
        self._container.close()
        self._file.close()

    def show(self, stream: av.VideoStream, packet: av.Packet, before: int) -> None:
        """packet: of stream, the next one in the order of decoding. before: frames before the stream's first."""
        self._begin(stream)
        self._show(packet, bytes(packet), before)

    def _begin(self, stream: av.VideoStream) -> None:
        if self._video is None:
            self._video = self._container.add_stream_from_template(stream)
            self._track = _Track(self._container, self._sound, self._sample_rate)

    def _show(self, packet: av.Packet, data: bytes, before: int) -> None:
        assert self._video is not None
        assert packet.pts is not None and packet.dts is not None and packet.time_base is not None  # all of ours have
        copy = av.Packet(data)
        start = round(before / self._rate / packet.time_base)
        copy.pts, copy.dts, copy.time_base = packet.pts + start, packet.dts + start, packet.time_base
        copy.duration, copy.is_keyframe, copy.stream = packet.duration, packet.is_keyframe, self._video
        self._container.mux(copy)
        # Never more than one packet ahead. Of several that wait, the muxer takes the one after the next for the next,
        # and gives the fragments of the sound wrong times; a browser then drops all pictures up to the next key frame.
        self._track.play(copy.dts * copy.time_base)

    def repeat(self, path: Path, before: int) -> None:
        """Show a video that is written already."""
        with av.open(_address(path)) as source:
            stream = source.streams.video[0]
            # As the encoder gives them: an mp4 keeps packets, and what a decoder must know, in another form.
            if self._video is None:
                self._begin(stream)
                BitStreamFilterContext("h264_mp4toannexb", stream, self._video)
            for packet in source.demux(stream):
                if packet.dts is not None:  # the last one is empty
                    self._show(packet, _with_start_codes(bytes(packet)), before)


def _with_start_codes(data: bytes) -> bytes:
    """The parts of an H.264 picture as an encoder parts them, of one in which each begins with its length."""
    found, at = bytearray(), 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        found += b"\0\0\0\1" + data[at + 4 : end]
        at = end
    return bytes(found)


class _Mutable:
    """A file to be written to its end, which can be told to take no more."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self.mute = False

    def write(self, data: bytes) -> int:
        """As of a file."""
        view = memoryview(data)
        while len(view) and not self.mute:
            view = view[self._file.write(view) :]
        return len(data)

    def close(self) -> None:
        """As of a file."""
        self._file.close()


def _wave(sound: np.ndarray, begin: int, sample_rate: int) -> av.AudioFrame:
    """sound: (1 or 2, n)."""
    layout = "mono" if len(sound) == 1 else "stereo"
    wave = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound, np.float32), format="fltp", layout=layout)
    wave.sample_rate = sample_rate
    wave.pts, wave.time_base = begin, Fraction(1, sample_rate)  # without them the sound comes a packet late
    return wave
