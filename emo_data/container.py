"""A media file opened for reading: its streams, packets and frames, as far as they can be read."""

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av

_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2 matroska,webm avi mpegts mpeg flv asf ogg mxf "
    "wav w64 aiff au caf mp3 flac aac ac3 eac3 amr ape wv tta voc"
)
"""Containers of video and sound. Playlists are none of them: what they name would be opened, wherever it lies."""


class Unreadable(Exception):
    """The file cannot be opened or decoded."""


def chosen(streams: Iterable[Any]) -> Any | None:
    """The default stream, else the first; a cover picture is no video."""
    real = [stream for stream in streams if not stream.disposition & av.stream.Disposition.attached_pic]
    default = [stream for stream in real if stream.disposition & av.stream.Disposition.default]
    return next(iter(default or real), None)


@contextmanager
def reading(path: Path) -> Iterator[Any]:
    """The opened container; whatever FFmpeg or the disk objects to becomes Unreadable."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # whoever opens a pipe waits for its writer
            raise Unreadable("it is not a file")
        # A whole path with its protocol said: `talk: one.mp4` would be asked of a protocol named talk.
        options = {"protocol_whitelist": "file", "format_whitelist": _FORMATS.replace(" ", ",")}
        with av.open(f"file:{os.path.abspath(path)}", container_options=options) as container:
            yield container
    except av.error.ArgumentError as error:  # what FFmpeg says of a format that is not on the list
        raise Unreadable("it is no video or sound in any container that is read here") from error
    except (av.error.FFmpegError, OSError) as error:
        raise Unreadable(error.strerror or str(error)) from error


def packets(container: Any, stream: Any) -> Iterator[av.Packet]:
    """All packets up to the end or to where the file breaks off: a broken end leaves the readable part."""
    packets = container.demux(stream)
    while True:
        try:
            yield next(packets)
        except StopIteration:
            return
        except av.error.FFmpegError:
            return


def frames_of(packet: Any) -> Iterator[Any]:
    """What one packet decodes to; a corrupt packet gives nothing, and its moment in time stays without a picture."""
    return (frame for frame in _decoded(packet) if frame is not None)


def undamaged_frames(stream_packets: Iterable[Any]) -> Iterator[Any]:
    """What all packets decode to but what is damaged: a frame that is corrupt, or leans on one that is.

    A picture is coded as what has changed since others; after damage only a key frame begins anew, and until then
    faces are smeared.
    """
    whole = True
    for packet in stream_packets:
        for frame in _decoded(packet):
            whole = frame is not None and not frame.is_corrupt and (whole or frame.key_frame)
            if whole:
                yield frame


def _decoded(packet: Any) -> Iterator[Any | None]:
    """The frames of a packet, then None if some could not be decoded."""
    try:
        yield from packet.decode()
    except av.error.InvalidDataError:
        yield None
