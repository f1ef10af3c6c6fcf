"""Whether lips and sound belong together, and by how much one is late (EMO 4.2: the SyncNet score).

Legend: F frames at 25 fps, S samples at 16 kHz, L lags, N windows.
"""

from dataclasses import dataclass

import numpy as np

from emo_core.evaluation.block import CONTEXT, Block, SyncScore
from emo_core.evaluation.weights import Net
from emo_data.features.pose import MOUTH, mouth_opening
from emo_data.schema import FPS, SAMPLE_RATE

LAGS = np.arange(-15, 16)
"""Frames that the sound may be late; SyncNet's own search."""
_LEAST = 25
"""Frames with a face that a lag is judged by."""
_WINDOW, _PER_FRAME = 5, 4
"""Frames that SyncNet sees at a time; cepstra that it hears in each."""
_COEFFICIENTS, _EMBEDDED = 13, 1024


@dataclass(frozen=True)
class MouthAndSound:
    """Offline: the opening of the inner lips against the sound's loudness.

    offset: the lag of the greatest correlation. confidence: Pearson's r there, which is not SyncNet's confidence.
    """

    name: str = "offline-mouth-loudness"
    standard: bool = False
    net: None = None

    def features(self, block: Block) -> np.ndarray:
        """(N, 1): opening over face height, NaN without a face."""
        return mouth_opening(block.landmarks[block.before :, MOUTH])[:, None]

    def judge(self, rows: np.ndarray, sound: np.ndarray) -> SyncScore:
        """ValueError: too short, a mouth that never moves, silence."""
        correlations = np.array([lagged_correlation(rows[:, 0], sound, lag) for lag in LAGS])
        if not np.isfinite(correlations).any():
            raise ValueError("the mouth or the sound never changes, or too few frames show a face")
        best = int(np.nanargmax(correlations))
        return SyncScore(int(LAGS[best]), float(correlations[best]))


def lagged_correlation(opening: np.ndarray, sound: np.ndarray, lag: int) -> float:
    """Pearson's r of the opening (F,) of frame f and the loudness at frame f + lag, over frames that have both.

    NaN where fewer than 25 have, or where one of them is constant.
    """
    loud = _loudness(sound, len(opening))
    heard = np.arange(len(opening)) + lag
    usable = np.isfinite(opening) & (heard >= 0) & (heard < len(loud))
    if usable.sum() < _LEAST:
        return float("nan")
    mouth, level = opening[usable].astype(np.float64), loud[heard[usable]]
    if mouth.std() < 1e-6 or level.std() < 1e-9:
        return float("nan")
    return float(np.corrcoef(mouth, level)[0, 1])


def _loudness(sound: np.ndarray, frames: int) -> np.ndarray:
    """float64 (F,): level of what is heard while each frame is shown, decibels below the loudest, 40 at most.

    Not in the paper: decibels, a mean over three frames. On people they go better with the mouth than power does.
    """
    samples = SAMPLE_RATE // FPS
    padded = np.zeros(frames * samples)
    padded[: min(len(sound), len(padded))] = sound[: len(padded)]
    power = (padded.reshape(frames, samples) ** 2).mean(axis=1)
    if not power.any():
        return power
    level = 10 * np.log10(np.maximum(power / power.max(), 1e-4))
    return np.convolve(np.pad(level, 1, mode="edge"), np.ones(3) / 3, "valid")


@dataclass(frozen=True)
class SyncNet:
    """Chung and Zisserman (2016), as LSE-C and LSE-D are computed with it: distances of lip and sound embeddings.

    The TorchScript exports forward_lip (N, 3, 5, 224, 224), 0-255 as BGR, and forward_aud (N, 1, 13, 20), MFCC, both to
    (N, 1024).
    """

    net: Net
    name: str = "syncnet"
    standard: bool = True

    def features(self, block: Block) -> np.ndarray:
        """(N, 1024): the embedding of a frame and the four before it; NaN where one of the five shows no face."""
        rows = np.full((len(block.there) - block.before, _EMBEDDED), np.nan, np.float32)
        known = np.isfinite(block.landmarks[:, 0, 0])
        ends = [end for end in range(max(block.before, CONTEXT), len(known)) if known[end - CONTEXT : end + 1].all()]
        if ends:
            faces = {at: _lower_face(block, at) for at in range(ends[0] - CONTEXT, len(known)) if known[at]}
            lips = [np.stack([faces[at] for at in range(end - CONTEXT, end + 1)], axis=1) for end in ends]
            rows[np.array(ends) - block.before] = self.net(
                np.stack(lips).astype(np.float32), method="forward_lip", width=_EMBEDDED
            )
        return rows

    def judge(self, rows: np.ndarray, sound: np.ndarray) -> SyncScore:
        """distance: the least over lags of the mean distance; confidence: the median over lags above that."""
        heard = mfcc(sound)
        ends = np.arange(_WINDOW - 1, min(len(rows), len(heard) // _PER_FRAME))
        if len(ends) < _LEAST:
            raise ValueError("too short to be judged")
        windows = np.stack([heard[_PER_FRAME * (end + 1 - _WINDOW) : _PER_FRAME * (end + 1)].T for end in ends])
        voices = self.net(windows[:, None].astype(np.float32), method="forward_aud", width=_EMBEDDED)
        distances = np.array([_mean_distance(rows[ends], voices, lag) for lag in LAGS])
        if not np.isfinite(distances).any():
            raise ValueError("too few frames show a face")
        best = int(np.nanargmin(distances))
        least = float(distances[best])
        return SyncScore(int(LAGS[best]), float(np.nanmedian(distances)) - least, least)


def _lower_face(block: Block, at: int) -> np.ndarray:
    """uint8 (3, 224, 224), BGR: a square 1.4 times as high as the face, from its top down; what is outside is black."""
    import cv2

    points = block.landmarks[at, :, :2]
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
    half = max(x1 - x0, y1 - y0) / 2
    scale = 224 / (2.8 * half)
    left, top = (x0 + x1) / 2 - 1.4 * half, (y0 + y1) / 2 - half
    cut = cv2.warpAffine(
        block.pictures[at], np.array([[scale, 0, -left * scale], [0, scale, -top * scale]]), (224, 224)
    )
    return cut[..., ::-1].transpose(2, 0, 1)


def _mean_distance(lips: np.ndarray, voices: np.ndarray, lag: int) -> float:
    """Mean Euclidean distance of lips at f and voices at f + lag; NaN for fewer than 25 pairs."""
    places = np.arange(len(lips)) + lag
    inside = (places >= 0) & (places < len(voices)) & np.isfinite(lips[:, 0])
    if inside.sum() < _LEAST:
        return float("nan")
    return float(np.linalg.norm(lips[inside] - voices[places[inside]], axis=1).mean())


def mfcc(sound: np.ndarray) -> np.ndarray:
    """float64 (T, 13): mel cepstra at 100 Hz as SyncNet hears them, of sound in -1..1 scaled to 16 bits.

    Pre-emphasis 0.97, 25 ms without a window function, 512-point power spectrum, 26 mel bands up to 8 kHz, log, DCT-II,
    lifter 22; the first coefficient is the log of the energy.
    """
    from scipy.fft import dct

    length, hop, points, bands = SAMPLE_RATE // 40, SAMPLE_RATE // 100, 512, 26
    samples = sound.astype(np.float64) * 32768
    samples = np.concatenate([samples[:1], samples[1:] - 0.97 * samples[:-1]])
    count = 1 + max(0, -(-(len(samples) - length) // hop))
    samples = np.pad(samples, (0, max(0, (count - 1) * hop + length - len(samples))))
    frames = samples[np.arange(count)[:, None] * hop + np.arange(length)]
    power = np.abs(np.fft.rfft(frames, points)) ** 2 / points
    mel = np.linspace(0, 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700), bands + 2)
    edges = np.floor((points + 1) * 700 * (10 ** (mel / 2595) - 1) / SAMPLE_RATE)
    place, low, middle, high = np.arange(points // 2 + 1), edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (place - low) / np.maximum(middle - low, 1), (high - place) / np.maximum(high - middle, 1)
    filters = np.where(place < middle, rising, falling).clip(0)
    smallest = np.finfo(float).eps
    cepstra = dct(np.log(np.maximum(power @ filters.T, smallest)), type=2, norm="ortho")[:, :_COEFFICIENTS]
    cepstra *= 1 + 11 * np.sin(np.pi * np.arange(_COEFFICIENTS) / 22)
    cepstra[:, 0] = np.log(np.maximum(power.sum(axis=1), smallest))
    return cepstra
