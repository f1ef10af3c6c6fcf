"""A media file opened for reading: its streams, packets and frames, as far as they can be read."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av


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
        with av.open(str(path)) as container:
            yield container
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
    try:
        yield from packet.decode()
    except av.error.InvalidDataError:
        return
