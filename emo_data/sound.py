"""Sound out of files of any kind, laid out by its time stamps: 16 kHz mono to learn from, 48 kHz stereo to be heard.

Legend: S samples. Times are seconds in the file's own time.
"""

import math
import os
import tempfile
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import av
import numpy as np

from emo_data.container import Unreadable, chosen, frames_of, packets, reading
from emo_data.errors import UserError
from emo_data.schema import SAMPLE_RATE

Sound = TypeVar("Sound", np.ndarray, "SpooledSound")
FILM_RATE = 48_000
"""Hz of the sound of a video that people watch."""
_SOUND_GAP = 0.02
"""Seconds by which a block of sound may miss its time stamp before it is moved to where the stamp says."""


class _Run:
    """Sound without a gap, resampled as it comes: (where it goes, float32 (channels, samples))."""

    def __init__(self, at: int, time: float, rate: int, layout: str | None) -> None:
        self._at = at
        self.heard = time  # the time up to which sound came in
        self._resampler = av.AudioResampler(format="fltp", rate=rate, layout=layout)

    def add(self, frame: av.AudioFrame | None) -> Iterator[tuple[int, np.ndarray]]:
        """None flushes."""
        for block in self._resampler.resample(frame):
            samples = block.to_ndarray()
            count = samples.shape[1]
            if self._at + count > 0:  # what lies before the beginning is not wanted
                yield max(self._at, 0), samples[:, max(-self._at, 0) :]
            self._at += count
        if frame is not None:
            self.heard += frame.samples / frame.sample_rate


def _blocks(
    path: Path, start: float | None, seconds: float | None, rate: int, layout: str | None
) -> Iterator[tuple[int, np.ndarray]]:
    """Blocks of samples, each where its time says: number of its first sample, from `start` on, and float32 (channels,
    samples). layout: None leaves the file's own."""
    with reading(path) as container:
        stream = chosen(container.streams.audio)
        if stream is None:
            raise Unreadable("there is no sound in it")
        if start is not None and stream.time_base is not None and start > 1:
            container.seek(int((start - 1) / stream.time_base), stream=stream)  # earlier: a decoder needs a run-up
        begin, run, before = start, None, None
        for frame in (frame for packet in packets(container, stream) for frame in frames_of(packet)):
            time = frame.time if frame.time is not None else (run.heard if run else 0.0)
            if start is not None and seconds is not None and time > start + seconds:
                break
            kind = frame.sample_rate, frame.layout.name, frame.format.name  # joined files change theirs midway
            if run is None or abs(time - run.heard) > _SOUND_GAP or kind != before:
                if run is not None:
                    yield from run.add(None)
                begin = time if begin is None else begin
                run, before = _Run(round((time - begin) * rate), time, rate, layout), kind
            yield from run.add(frame)
        if run is not None:
            yield from run.add(None)


def _mono(path: Path, start: float | None = None, seconds: float | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """The same at 16 kHz, float32 (samples,). A plain mean over channels: never louder than the loudest of them."""
    for at, samples in _blocks(path, start, seconds, SAMPLE_RATE, None):
        yield at, samples.mean(axis=0, dtype=np.float32)


def sound_between(path: Path, start: float | None = None, seconds: float | None = None) -> np.ndarray:
    """Mono sound at 16 kHz, float32 (S,): from `start` in the file's own time (None: its first sample) for `seconds`.

    Where the file has no sound at those times there are zeros, so S = round(seconds * 16000) always; None reads to the
    end. Raises Unreadable, also where there is no sound stream or samples are not numbers.
    """
    blocks = list(_mono(path, start, seconds))
    end = max((at + len(samples) for at, samples in blocks), default=0)
    sound = np.zeros(round(seconds * SAMPLE_RATE) if seconds is not None else end, dtype=np.float32)
    for at, samples in blocks:
        part = samples[: max(len(sound) - at, 0)]
        sound[at : at + len(part)] = part
    _check(sound)
    return sound


def _check(sound: np.ndarray) -> None:
    if not np.isfinite(sound).all():
        raise Unreadable("some of its samples are not numbers (NaN or infinite)")


class TooLong(UserError):
    """There is more sound than is wanted."""


class SpooledSound:
    """The whole of a sound file, 16 kHz mono float32 (S,), in a file without a name on the disk: an hour is 230 MB.

    To be sliced like an array; what is asked for is read. Raises Unreadable as `sound_between` does.
    """

    def __init__(self, path: Path, folder: Path, max_seconds: float = math.inf) -> None:
        """folder: on the disk that shall hold it. Raises TooLong as soon as there are more than `max_seconds`."""
        self._file, self._length = tempfile.TemporaryFile(dir=folder), 0  # noqa: SIM115 (it lasts as long as the object)
        for at, samples in _mono(path):
            _check(samples)
            self._file.seek(4 * at)
            self._file.write(samples.tobytes())
            self._length = max(self._length, at + len(samples))
            if self._length > max_seconds * SAMPLE_RATE:
                raise TooLong(f"{path}: there are more than {max_seconds:g} s of sound")
        self._file.flush()

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice) -> np.ndarray:
        start, stop, _ = part.indices(self._length)
        return np.frombuffer(os.pread(self._file.fileno(), 4 * max(stop - start, 0), 4 * start), np.float32)


def read_sound(path: Path) -> np.ndarray:
    """The whole of a sound file of any kind (or of a video's sound), 16 kHz mono, float32 (S,), S > 0. UserError."""
    return _for_a_person(path, sound_between)


def spool_sound(path: Path, folder: Path, max_seconds: float = math.inf) -> SpooledSound:
    """As `read_sound`, in constant memory. folder, max_seconds: see SpooledSound."""
    return _for_a_person(path, lambda given: SpooledSound(given, folder, max_seconds))


def _for_a_person(path: Path, read: Callable[[Path], Sound]) -> Sound:
    if not path.is_file():
        raise UserError(f"{path}: there is no such sound file")
    if not path.stat().st_size:
        raise UserError(f"{path}: the file is empty")
    try:
        sound = read(path)
    except Unreadable as error:
        raise UserError(f"{path}: cannot be used as sound: {error}; give a WAV, MP3, M4A or FLAC with sound") from error
    if not len(sound):
        raise UserError(f"{path}: it holds no sound (zero length)")
    return sound


def film_sound(path: Path, seconds: float) -> Iterator[np.ndarray]:
    """A sound as it is to be heard beside a picture: blocks of float32 (2, n) at FILM_RATE, so many seconds in all.

    Where the file has no sound there are zeros; of what lies on top of each other the first is heard.
    """
    heard, end = 0, round(seconds * FILM_RATE)
    for at, samples in _blocks(path, None, None, FILM_RATE, "stereo"):
        for gap in _silence(min(at, end) - heard):
            yield gap
            heard += gap.shape[1]
        fresh = samples[:, heard - at : max(end - at, 0)]
        if fresh.shape[1]:
            yield fresh
            heard += fresh.shape[1]
    yield from _silence(end - heard)


def _silence(count: int) -> Iterator[np.ndarray]:
    for begin in range(0, count, FILM_RATE):
        yield np.zeros((2, min(FILM_RATE, count - begin)), np.float32)


def write_sound(path: Path, sound: np.ndarray) -> None:
    """A WAV file of 16 bits. sound: float32 (S,) in -1..1, 16 kHz mono; what is louder is cut."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((sound.clip(-1, 1) * 32767).round().astype("<i2").tobytes())
