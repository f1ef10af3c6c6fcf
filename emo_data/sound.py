"""Sound out of files of any kind: 16 kHz mono, laid out by its time stamps.

Legend: S samples. Times are seconds in the file's own time.
"""

import wave
from pathlib import Path

import av
import numpy as np

from emo_data.container import Unreadable, chosen, frames_of, packets, reading
from emo_data.errors import UserError
from emo_data.schema import SAMPLE_RATE

_SOUND_GAP = 0.02
"""Seconds by which a block of sound may miss its time stamp before it is moved to where the stamp says."""


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
    with reading(path) as container:
        stream = chosen(container.streams.audio)
        if stream is None:
            raise Unreadable("there is no sound in it")
        if start is not None and stream.time_base is not None and start > 1:
            container.seek(int((start - 1) / stream.time_base), stream=stream)  # earlier: a decoder needs a run-up
        for frame in (frame for packet in packets(container, stream) for frame in frames_of(packet)):
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


def write_sound(path: Path, sound: np.ndarray) -> None:
    """A WAV file of 16 bits. sound: float32 (S,) in -1..1, 16 kHz mono; what is louder is cut."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((sound.clip(-1, 1) * 32767).round().astype("<i2").tobytes())
