"""Video files of awkward and hostile kinds, made in code from one ordinary talking-head mp4 (H.264, AAC).

No two are alike in content, so none passes for a duplicate. Those that are usable show the source's face, upright,
and sound like it. A folder is searched for files, by ending: dir.mp4 and raw.h264 are met only where they are named.
"""

import errno
import gzip
import os
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.codec.codec import UnknownCodecError
from PIL import Image

GOOD = "good.mp4"
"""The source as it is; playlists point to it."""
_TICK = Fraction(1, 1000)
_HOUR = 3600.0

Timed = tuple[float, np.ndarray]
"""When a picture appears, in seconds, and the picture, RGB uint8 (H, W, 3)."""
Edits = dict[bytes, Callable[[bytes], bytes]]
"""Type of an mp4 box -> its new body from its old one."""


@dataclass(frozen=True)
class Kind:
    """One way for a file to be. Where it is usable, it lasts as long as the source, less `shorter` seconds."""

    name: str
    usable: bool
    make: Callable[[Path, Path], None]
    """From the source, write the target."""
    reasons: frozenset[str] = frozenset()
    """Each of them is a right answer where the file is not usable."""
    shorter: float = 0.0


def write_hostile(source: Path, folder: Path) -> list[Kind]:
    """Write every kind into `folder`. Returns those that could be written and warns of the others."""
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Kind] = []
    for kind in KINDS:
        try:
            kind.make(source, folder / kind.name)
        except UnknownCodecError as error:
            warnings.warn(f"{kind.name!r} is not written: this PyAV has no encoder {error}", stacklevel=2)
        except OSError as error:
            if error.errno != errno.EILSEQ:
                raise
            warnings.warn(f"{kind.name!r} is not written: the disk wants names in UTF-8", stacklevel=2)
        else:
            written.append(kind)
    return written


# Tools: pictures and packets


def _pictures(source: Path) -> list[Timed]:
    """All pictures of a file."""
    with av.open(str(source)) as container:
        frames = container.decode(video=0)
        return [(float(frame.time or 0), frame.to_ndarray(format="rgb24")) for frame in frames]


def _length(source: Path) -> float:
    """Seconds from the first picture's appearance to the last one's end."""
    times = [time for time, _ in _pictures(source)]
    return (times[-1] - times[0]) * len(times) / (len(times) - 1)


def _sampled(source: Path, times: Iterable[float]) -> list[Timed]:
    """At each time the picture that is nearest to it."""
    pictures = _pictures(source)
    known = np.array([time for time, _ in pictures])
    return [(time, pictures[int(np.abs(known - time).argmin())][1]) for time in times]


def _sound(source: Path, layout: str, rate: int) -> Iterator[av.AudioFrame]:
    """The sound of a file, resampled."""
    resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
    with av.open(str(source)) as container:
        for frame in container.decode(audio=0):
            yield from resampler.resample(frame)
        yield from resampler.resample(None)


def _encode(
    target: Path,
    pictures: Iterable[Timed],
    sound_of: Path | None,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    turned: int = 0,
    stretch: int = 1,
    sound: tuple[str, str, int] = ("aac", "mono", 16_000),
) -> None:
    """Write pictures at their times and the sound of a file. sound: codec, layout, rate."""
    with av.open(str(target), "w") as container:
        video: Any = container.add_stream(codec, rate=25, options=options)
        video.pix_fmt = "yuv420p"
        video.codec_context.time_base = video.time_base = _TICK
        video.codec_context.sample_aspect_ratio = stretch
        if turned:
            video.set_display_rotation(turned)
        audio: Any = sound_of and container.add_stream(sound[0], rate=sound[2], layout=sound[1])
        for number, (time, picture) in enumerate(pictures):
            if number == 0:
                video.height, video.width = picture.shape[:2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = round(time / _TICK), _TICK
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if sound_of:
            for block in _sound(sound_of, *sound[1:]):
                container.mux(audio.encode(block))
            container.mux(audio.encode())


def _remux(source: Path, target: Path, form: str, later: float = 0.0, only: str = "", **options: str) -> None:
    """Copy packets into another container, `later` seconds later. only: a type of stream; "" for all."""
    with av.open(str(source)) as old, av.open(str(target), "w", format=form, options=options) as new:
        wanted = [stream for stream in old.streams if only in ("", stream.type)]
        copies: dict[int, Any] = {stream.index: new.add_stream_from_template(stream) for stream in wanted}
        for packet in old.demux(*wanted):
            if packet.dts is not None and packet.pts is not None:
                shift = round(later / packet.time_base)
                packet.dts, packet.pts = packet.dts + shift, packet.pts + shift
                packet.stream = copies[packet.stream_index]
                new.mux(packet)


# Tools: the boxes of an mp4

_BEFORE_CHILDREN = {
    kind: skip
    for skip, kinds in {0: b"moov trak edts mdia minf stbl", 8: b"stsd", 78: b"avc1"}.items()
    for kind in kinds.split()
}


def _box(kind: bytes, body: bytes) -> bytes:
    """One box, head and body."""
    return struct.pack(">I4s", 8 + len(body), kind) + body


def _boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type, start and end of each box."""
    start = 0
    while start < len(data):
        size, kind = struct.unpack_from(">I4s", data, start)
        yield kind, start, start + size
        start += size


def _edited(data: bytes, edits: Edits) -> bytes:
    """The same boxes, with new bodies for those that `edits` names, at any depth."""
    out = b""
    for kind, start, end in _boxes(data):
        body = data[start + 8 : end]
        if kind in edits:
            body = edits[kind](body)
        elif kind in _BEFORE_CHILDREN:
            skip = _BEFORE_CHILDREN[kind]
            body = body[:skip] + _edited(body[skip:], edits)
        out += _box(kind, body)
    return out


def _moov(data: bytes) -> tuple[int, int]:
    """Where the index of an mp4 begins and ends."""
    return next((start, end) for kind, start, end in _boxes(data) if kind == b"moov")


def _with_index(source: Path, target: Path, edits: Edits) -> None:
    """Edit the index. The new one comes last and the old one becomes free space, so that no sample moves."""
    data = source.read_bytes()
    start, end = _moov(data)
    old = _box(b"free", data[start + 8 : end])
    target.write_bytes(data[:start] + old + data[end:] + _edited(data[start:end], edits))


def _video_only(edit: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """An edit of a trak that leaves tracks of sound alone."""
    return lambda body: edit(body) if b"avc1" in body else body


# Kinds: names


def _copy(source: Path, target: Path) -> None:
    """The source as it is."""
    target.write_bytes(source.read_bytes())


def _named(source: Path, target: Path) -> None:
    """The source, with its name in free space at the end: alike, but no duplicate."""
    target.write_bytes(source.read_bytes() + _box(b"free", os.fsencode(target.name)))


# Kinds: no ordinary files


def _directory(_: Path, target: Path) -> None:
    """An empty folder."""
    target.mkdir()


def _dangling(_: Path, target: Path) -> None:
    """A link to nothing."""
    target.symlink_to("nowhere.mp4")


def _pipe(_: Path, target: Path) -> None:
    """A named pipe that nobody writes to: opening it waits for ever."""
    os.mkfifo(target)


def _loop(_: Path, target: Path) -> None:
    """A link to itself."""
    target.symlink_to(target.name)


# Kinds: absurd sizes


def _boxes_lie(source: Path, target: Path) -> None:
    """tkhd and avc1 claim 60000 x 60000; the H.264 stream says how large the pictures are."""

    def track(body: bytes) -> bytes:
        shown, coded = struct.pack(">II", 60_000 << 16, 60_000 << 16), struct.pack(">HH", 60_000, 60_000)
        edits: Edits = {
            b"tkhd": lambda tkhd: tkhd[:-8] + shown,
            b"avc1": lambda avc1: avc1[:24] + coded + avc1[28:],
        }
        return _edited(body, edits)

    _with_index(source, target, {b"trak": _video_only(track)})


def _stream_lies(side: int) -> Callable[[Path, Path], None]:
    """The boxes are honest; the H.264 stream itself claims pictures of side x side."""

    def avcc(body: bytes) -> bytes:
        (size,) = struct.unpack_from(">H", body, 6)
        sps = _resized(body[8 : 8 + size], side)
        return body[:6] + struct.pack(">H", len(sps)) + sps + body[8 + size :]

    return lambda source, target: _with_index(source, target, {b"avcC": avcc})


def _resized(sps: bytes, side: int) -> bytes:
    """A sequence parameter set (H.264 7.3.2.1.1, as x264 writes it) for pictures of side x side."""
    bits = "".join(f"{byte:08b}" for byte in sps.replace(b"\0\0\3", b"\0\0")).rstrip("0")
    at = 32  # after head, profile, constraints and level

    def number() -> int:  # Exp-Golomb: as many digits follow the first one as zeros go before it
        nonlocal at
        first = bits.index("1", at)
        start, at = at, 2 * first - at + 1
        return int(bits[start:at], 2) - 1

    number()  # id
    if sps[1] >= 100:  # High profile
        assert (number(), number(), number()) == (1, 0, 0)  # 4:2:0, 8 bits of brightness and of colour
        assert bits[at : at + 2] == "00"  # nothing lossless, no matrices
        at += 2
    number()  # digits of a frame's number
    if number() == 0:  # order of pictures
        number()
    number()  # reference frames
    at += 1  # may numbers be missing
    start = at
    number(), number()  # width and height in blocks of 16, less one
    blocks = f"{side // 16:b}"
    size = 2 * ("0" * (len(blocks) - 1) + blocks)
    bits = bits[:start] + size + bits[at:]
    out = b""
    for place in range(0, len(bits), 8):
        byte = int(bits[place : place + 8].ljust(8, "0"), 2)
        out += bytes([3, byte]) if out.endswith(b"\0\0") and byte < 4 else bytes([byte])  # no start code inside
    return out


def _png(side: int, rows: int) -> Callable[[Path, Path], None]:
    """Black PNG pictures for as long as the source: of side x side pixels by their own heads, of which `rows` come."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    def make(source: Path, target: Path) -> None:
        squeeze = zlib.compressobj(9)
        row = bytes(1 + (side + 7) // 8)  # a bit for each pixel
        data = b"".join(squeeze.compress(row) for _ in range(rows)) + squeeze.flush()
        head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
        picture = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
        with av.open(str(target), "w") as container:
            stream = container.add_mux_stream("png", rate=25, width=192, height=192)
            stream.time_base = _TICK
            for number in range(round(25 * _length(source))):
                packet: Any = av.Packet(picture)
                packet.stream, packet.time_base, packet.is_keyframe = stream, _TICK, True
                packet.pts = packet.dts = 40 * number
                container.mux(packet)

    return make


# Kinds: lawful, but rare


def _surround(source: Path, target: Path) -> None:
    """Sound in 5.1."""
    _encode(target, _pictures(source), source, sound=("aac", "5.1", 16_000))


def _interlaced(source: Path, target: Path) -> None:
    """Two half pictures woven into each, the upper lines first; the lower ones are a picture later."""
    pictures = _pictures(source)
    for (_, picture), (_, after) in pairwise(pictures):
        picture[1::2] = after[1::2]
    _encode(target, pictures, source, options={"flags": "+ildct+ilme", "x264-params": "tff=1"})


def _fragmented(source: Path, target: Path) -> None:
    """An index for each fragment and none for all. Starts after 0; its writer puts the sound 16 ms early."""
    _remux(source, target, "mp4", movflags="frag_keyframe+empty_moov")


def _av1(source: Path, target: Path) -> None:
    """AV1 in mp4."""
    _encode(target, _pictures(source), source, "libsvtav1", {"preset": "10", "crf": "30", "svtav1-params": "lp=1"})


def _vp9(source: Path, target: Path) -> None:
    """VP9 and Opus in WebM."""
    options = {"deadline": "realtime", "cpu-used": "8", "b": "1M"}
    _encode(target, _pictures(source), source, "libvpx-vp9", options, sound=("libopus", "mono", 48_000))


def _raw(source: Path, target: Path) -> None:
    """H.264 with start codes and no container: its pictures have no times."""
    _remux(source, target, "h264", only="video")


def _trimmed(source: Path, target: Path) -> None:
    """The edit lists of picture and sound leave out the first second."""

    def track(body: bytes) -> bytes:
        mdhd = body.index(b"mdhd") + 4
        (ticks,) = struct.unpack_from(">I", body, mdhd + 12)  # per second

        def elst(old: bytes) -> bytes:
            assert old[0] == 0 and old[4:8] == b"\0\0\0\1"  # version 0, one entry; the film's clock: ms
            seconds, begin = struct.unpack_from(">Ii", old, 8)
            return old[:8] + struct.pack(">Ii", seconds - 1000, begin + ticks) + old[16:]

        return _edited(body, {b"elst": elst})

    _with_index(source, target, {b"trak": track})


def _transported(later: float) -> Callable[[Path, Path], None]:
    """MPEG-TS in which the first picture appears at that second. The clock of a TS goes round every 95443.7 s."""
    return lambda source, target: _remux(source, target, "mpegts", later)


def _turned(source: Path, target: Path) -> None:
    """Lies on its side; a matrix sets it upright."""
    _encode(target, [(time, np.rot90(picture, -1)) for time, picture in _pictures(source)], source, turned=90)


def _stretched(source: Path, target: Path) -> None:
    """Pixels twice as wide as high."""
    half = [(time, picture[:, : picture.shape[1] // 4 * 4 : 2]) for time, picture in _pictures(source)]
    _encode(target, half, source, stretch=2)


def _jittered(source: Path, target: Path) -> None:
    """Each picture 30 to 60 ms after the one before."""
    steps = np.random.default_rng(0).integers(30, 61, size=round(_length(source) / 0.03)) / 1000
    times = np.concatenate([[0], np.cumsum(steps)])
    _encode(target, _sampled(source, times[times < _length(source) - 0.02].tolist()), source)


def _twice(source: Path, target: Path) -> None:
    """The index stands at the beginning and again at the end."""
    data = source.read_bytes()
    start, end = _moov(data)
    target.write_bytes(data + data[start:end])


# Kinds: too little


def _cut(source: Path, target: Path) -> None:
    """Breaks off after a second; the index promises all."""
    with av.open(str(source)) as container:
        packets = container.demux(video=0)
        ends = [p.pos + p.size for p in packets if p.pos and p.dts is not None and p.dts * p.time_base < 1]
    target.write_bytes(source.read_bytes()[: max(ends)])


def _slow(source: Path, target: Path) -> None:
    """8 pictures per second."""
    _encode(target, _sampled(source, (np.arange(round(8 * _length(source))) / 8).tolist()), source)


def _sparse(source: Path, target: Path) -> None:
    """Three pictures in twenty hours, no sound: 1.8 million moments at 25 per second."""
    (_, picture), *_ = _pictures(source)
    _encode(target, [(number * 10 * _HOUR, picture) for number in range(3)], None)


def _stopped(source: Path, target: Path) -> None:
    """All pictures at the same time."""

    def stts(body: bytes) -> bytes:
        pictures = sum(struct.unpack_from(">I", body, at)[0] for at in range(8, len(body), 8))
        return struct.pack(">IIII", 0, 1, pictures, 0)

    def track(body: bytes) -> bytes:
        no_order: Edits = {b"ctts": lambda _: struct.pack(">II", 0, 0), b"edts": lambda _: b""}
        return _edited(body, {b"stts": stts, **no_order})

    _with_index(source, target, {b"trak": _video_only(track)})


def _animation(source: Path, target: Path) -> None:
    """A GIF of two pictures, a fifth of a second each."""
    first, last = (Image.fromarray(picture) for _, picture in _pictures(source)[::50][:2])
    first.save(target, format="GIF", save_all=True, append_images=[last], duration=200)


def _still(source: Path, target: Path) -> None:
    """A JPEG."""
    Image.fromarray(_pictures(source)[0][1]).save(target, format="JPEG")


# Kinds: no video


def _beside(source: Path, target: Path) -> Path:
    """The good clip in the target's folder."""
    good = target.with_name(GOOD)
    if not good.exists():
        _copy(source, good)
    return good.resolve()


def _hls(source: Path, target: Path) -> None:
    """A playlist that would have its reader open another file."""
    clip = f"#EXTINF:{_length(source):.3f},\n{_beside(source, target)}"
    target.write_text(f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:60\n{clip}\n#EXT-X-ENDLIST\n")


def _concat(source: Path, target: Path) -> None:
    """A list of FFmpeg's own, to the same end."""
    target.write_text(f"ffconcat version 1.0\nfile {_beside(source, target).name}\n")


def _zeros(_: Path, target: Path) -> None:
    """A megabyte of zeros."""
    target.write_bytes(bytes(1_000_000))


def _gzipped(source: Path, target: Path) -> None:
    """The source, compressed."""
    target.write_bytes(gzip.compress(source.read_bytes(), mtime=0))


def _bad(name: str, make: Callable[[Path, Path], None], reasons: str) -> Kind:
    """A kind that must be rejected, for one of the reasons."""
    return Kind(name, False, make, frozenset(reasons.split()))


KINDS: list[Kind] = [
    Kind(GOOD, True, _copy),
    Kind("-i.mp4", True, _named),
    Kind("new\nline.mp4", True, _named),
    Kind("talk: one.mp4", True, _named),  # named from its own folder it looks like a protocol
    Kind("n" * 246 + ".mp4", True, _named),
    Kind(os.fsdecode(b"caf\xe9.mp4"), True, _named),
    _bad("dir.mp4", _directory, "unreadable no_video"),
    _bad("dangling.mp4", _dangling, "unreadable"),
    _bad("loop.mp4", _loop, "unreadable"),
    _bad("pipe.mp4", _pipe, "unreadable no_video hung"),
    Kind("boxes_60000.mp4", True, _boxes_lie),
    _bad("sps_60000.mp4", _stream_lies(60_000), "unreadable no_video too_large"),
    _bad("sps_16000.mp4", _stream_lies(16_000), "unreadable no_video too_large"),
    _bad("png_60000.mov", _png(60_000, rows=10), "unreadable no_video too_large"),
    _bad("png_15000.mov", _png(15_000, rows=15_000), "too_large"),
    Kind("surround.mp4", True, _surround),
    Kind("interlaced.mp4", True, _interlaced),
    Kind("fragmented.mp4", True, _fragmented),
    Kind("av1.mp4", True, _av1),
    Kind("vp9.webm", True, _vp9),
    _bad("raw.h264", _raw, "unreadable no_video"),
    Kind("trimmed.mp4", True, _trimmed, shorter=1.0),
    Kind("late.ts", True, _transported(40_000)),
    Kind("round.ts", True, _transported(2**33 / 90_000 - 2)),
    Kind("turned.mp4", True, _turned),
    Kind("stretched.mp4", True, _stretched),
    Kind("jittered.mp4", True, _jittered),
    Kind("twice.mp4", True, _twice),
    _bad("cut.mp4", _cut, "unreadable too_short"),
    _bad("slow.mp4", _slow, "low_rate"),
    _bad("sparse.mp4", _sparse, "low_rate"),
    _bad("stopped.mp4", _stopped, "unreadable no_video too_short low_rate"),
    _bad("anim.mp4", _animation, "unreadable no_video too_short low_rate"),
    _bad("still.mp4", _still, "unreadable no_video too_short"),
    _bad("list.mp4", _hls, "unreadable no_video"),
    _bad("concat.mp4", _concat, "unreadable no_video"),
    _bad("zeros.mp4", _zeros, "unreadable no_video"),
    _bad("gzip.mp4", _gzipped, "unreadable no_video"),
]
