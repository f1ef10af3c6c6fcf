"""A voice made in code: syllables with pitch and loudness, vowels with formants, breathy onsets, pauses.

Legend: S sound samples at `SAMPLE_RATE`, F frames of the picture, E points of the loudness envelope.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.signal import lfilter

from emo_data.schema import SAMPLE_RATE

FULL_LOUDNESS = 0.2
"""Root mean square of the loudest syllable; the mouth is fully open there."""

_BLOCK = 80
"""Samples (5 ms) over which formants and loudness are held."""
_VOWELS = np.array([[730, 1090, 2440], [530, 1840, 2480], [270, 2290, 3010], [570, 840, 2410], [300, 870, 2240]])
"""a e i o u: formants in Hz of an average man (Peterson and Barney 1952)."""
_ROUNDING = np.array([0.0, -0.5, -1.0, 0.6, 1.0])
_BANDWIDTHS = (80.0, 100.0, 140.0)
_SCALE = np.array([0, 2, 4, 7, 9, 12])
"""Semitones above the tonic."""


class Speech(NamedTuple):
    """sound: float32 (S,) in -1..1; rounding: float32 (F,) lips from -1 (spread, as in i) to 1 (rounded, as in u)."""

    sound: np.ndarray
    rounding: np.ndarray


class _Syllable(NamedTuple):
    start: float  # seconds
    length: float
    loudness: float  # of FULL_LOUDNESS
    vowel: int
    hiss: float  # share of the onset that is breath


def synthesise_voice(seed: int | Sequence[int], seconds: float) -> np.ndarray:
    """float32 (S,) at SAMPLE_RATE, S = round(seconds * SAMPLE_RATE): one speaker per seed, the same every time."""
    return synthesise_speech(seed, seconds, fps=25).sound


def synthesise_speech(seed: int | Sequence[int], seconds: float, fps: float) -> Speech:
    """The voice of `synthesise_voice` together with what the lips do besides opening, F = round(seconds * fps)."""
    rng = np.random.default_rng(seed)
    samples = round(seconds * SAMPLE_RATE)
    pitch = 90 * (250 / 90) ** rng.random()
    tract = 1.0 + 0.2 * (pitch - 90) / 160  # short throats go with high voices
    syllables = _syllables(rng, seconds, rate=rng.uniform(3, 6))
    time = _blocks(samples)
    loudness, weights = _envelope(syllables, time)
    source = _source(rng, _spoken(rng, pitch, time), syllables, time)
    sound = _voice(source, weights @ _VOWELS * tract, loudness)
    lips = np.interp((np.arange(round(seconds * fps)) + 0.5) / fps, time, weights @ _ROUNDING)
    return Speech(sound[:samples].astype(np.float32), lips.astype(np.float32))


def synthesise_song(seed: int | Sequence[int], seconds: float) -> np.ndarray:
    """float32 (S,) at SAMPLE_RATE: as `synthesise_voice`, but long notes of one scale, held with a vibrato."""
    rng = np.random.default_rng(seed)
    samples = round(seconds * SAMPLE_RATE)
    tonic = 110 * 2 ** rng.random()
    syllables, time = _syllables(rng, seconds, rate=rng.uniform(1.2, 2.0)), _blocks(samples)
    loudness, weights = _envelope(syllables, time)
    source = _source(rng, _sung(rng, tonic, syllables, time), syllables, time)
    return _voice(source, weights @ _VOWELS, loudness)[:samples].astype(np.float32)


def _blocks(samples: int) -> np.ndarray:
    """(E,) seconds: the middles of the blocks that so many samples take."""
    return (np.arange(-(-samples // _BLOCK)) + 0.5) * _BLOCK / SAMPLE_RATE


def _voice(source: np.ndarray, formants: np.ndarray, loudness: np.ndarray) -> np.ndarray:
    sound = _speak(source, formants)
    return sound * _gain(sound, loudness)


def _syllables(rng: np.random.Generator, seconds: float, rate: float) -> list[_Syllable]:
    """Phrases of three to eight syllables with pauses; the last syllables of a phrase are longer and softer."""
    syllables: list[_Syllable] = []
    now = rng.uniform(0.1, 0.5)
    while now < seconds:
        count = int(rng.integers(3, 9))
        for index in range(count):
            length = rng.uniform(0.75, 1.25) / rate * (1.3 if index == count - 1 else 1.0)
            loudness = rng.uniform(0.3, 1.0) * (0.8 if index == count - 1 else 1.0)
            syllables.append(_Syllable(now, length, loudness, int(rng.integers(5)), float(rng.choice([0.0, 0.25]))))
            now += length
        now += rng.uniform(0.3, 0.9)
    return syllables


def _envelope(syllables: list[_Syllable], time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(E,) loudness in 0-1 and (E, 5) smooth weights of the vowels at `time`."""
    loudness = np.zeros(len(time))
    weights = np.full((len(time), 5), 1e-3)
    for syllable in syllables:
        phase = (time - syllable.start) / syllable.length
        inside = (phase > 0) & (phase < 1)
        loudness[inside] = syllable.loudness * np.sin(np.pi * phase[inside] ** 0.85)
        middle = syllable.start + syllable.length / 2
        weights[:, syllable.vowel] += np.exp(-0.5 * ((time - middle) / (0.45 * syllable.length)) ** 2)
    return loudness, weights / weights.sum(1, keepdims=True)


def _spoken(rng: np.random.Generator, pitch: float, time: np.ndarray) -> np.ndarray:
    """(E,) Hz: a pitch that wanders."""
    knots = np.arange(0, time[-1] + 1, 0.25)
    wander = np.interp(time, knots, rng.normal(size=len(knots)))
    return pitch * 2 ** (0.12 * wander)


def _sung(rng: np.random.Generator, tonic: float, syllables: list[_Syllable], time: np.ndarray) -> np.ndarray:
    """(E,) Hz: a note of the pentatonic scale for each syllable, a quarter of a semitone of vibrato at 5.5 Hz."""
    notes = rng.choice(_SCALE, len(syllables))
    starts = np.array([syllable.start for syllable in syllables])
    note = notes[np.clip(np.searchsorted(starts, time, side="right") - 1, 0, None)]
    return tonic * 2 ** ((note + 0.25 * np.sin(2 * np.pi * 5.5 * time)) / 12)


def _source(rng: np.random.Generator, pitch: np.ndarray, syllables: list[_Syllable], time: np.ndarray) -> np.ndarray:
    """(E * _BLOCK,) glottal pulses of a pitch (E,) in Hz, breath at some syllables' onsets."""
    blocks, count = len(time), len(time) * _BLOCK
    frequency = np.repeat(pitch, _BLOCK)
    phase = np.cumsum(frequency / SAMPLE_RATE) % 1.0
    pulses = np.where(phase < 0.6, np.sin(np.pi * phase / 0.6) ** 2, 0.0)
    voiced = np.diff(pulses, prepend=0.0)  # lips radiate the derivative of the flow
    breath = np.diff(rng.normal(size=count), prepend=0.0)
    hiss = np.zeros(blocks)
    for syllable in syllables:
        phase_in = (time - syllable.start) / syllable.length
        hiss[(phase_in > 0) & (phase_in < syllable.hiss)] = 1.0
    hiss = np.repeat(np.convolve(hiss, np.ones(5) / 5, mode="same"), _BLOCK)
    return (1 - 0.9 * hiss) * voiced / voiced.std() + (0.02 + hiss) * breath / breath.std()


def _speak(source: np.ndarray, formants: np.ndarray) -> np.ndarray:
    """(E * _BLOCK,) source through three resonators in a row whose poles move from block to block."""
    sound = source
    for index, bandwidth in enumerate(_BANDWIDTHS):
        radius = np.exp(-np.pi * bandwidth / SAMPLE_RATE)
        angles = 2 * np.pi * formants[:, index] / SAMPLE_RATE
        state = np.zeros(2)
        out = np.empty_like(sound)
        for block, angle in enumerate(angles):
            a = [1.0, -2 * radius * np.cos(angle), radius**2]
            part = slice(block * _BLOCK, (block + 1) * _BLOCK)
            out[part], state = lfilter([sum(a)], a, sound[part], zi=state)
        sound = out
    return sound


def _gain(sound: np.ndarray, loudness: np.ndarray) -> np.ndarray:
    """(E * _BLOCK,) factor after which the running root mean square of `sound` is FULL_LOUDNESS * `loudness`."""
    power = (sound.reshape(-1, _BLOCK) ** 2).mean(1)
    kernel = np.hanning(11)[1:-1]
    running = np.sqrt(np.convolve(power, kernel / kernel.sum(), mode="same")) + 1e-9
    points = np.arange(len(loudness)) * _BLOCK + _BLOCK / 2
    return np.interp(np.arange(sound.size), points, FULL_LOUDNESS * loudness / running)
