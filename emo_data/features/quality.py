"""Numbers by which a clip can be judged: sharpness, brightness, loudness, and whether the mouth goes with the sound.

Legend: F frames, S samples. Pictures are RGB uint8 (H, W, 3), boxes 0-1 of the picture, sound float32 in -1..1.
"""

import numpy as np

from emo_data.schema import SAMPLE_RATE


def sharpness(picture: np.ndarray, box: np.ndarray) -> float:
    """Variance of the Laplacian of luma (0-255) inside the face's box; blur brings it near 0."""
    import cv2

    return float(cv2.Laplacian(_face_luma(picture, box), cv2.CV_32F).var())


def blur(picture: np.ndarray, box: np.ndarray) -> float:
    """0 (sharp) to 1: how little the face loses when it is blurred again (Crete et al., 2007). Costs milliseconds."""
    from skimage.measure import blur_effect

    luma = _face_luma(picture, box)
    return float(blur_effect(luma)) if min(luma.shape) > 12 else float("nan")


def brightness(picture: np.ndarray, box: np.ndarray) -> float:
    """Mean luma (0-255) inside the face's box."""
    return float(_face_luma(picture, box).mean())


def _face_luma(picture: np.ndarray, box: np.ndarray) -> np.ndarray:
    import cv2

    size = np.array(picture.shape[1::-1] * 2)
    x0, y0, x1, y1 = (np.nan_to_num(box, nan=0.5) * size).astype(int).clip(0, size - 1)
    return cv2.cvtColor(np.ascontiguousarray(picture[y0 : y1 + 1, x0 : x1 + 1]), cv2.COLOR_RGB2GRAY)


def loudness(sound: np.ndarray) -> float:
    """dBFS of the root mean square; -inf for digital silence."""
    power = float(np.mean(np.square(sound, dtype=np.float64))) if len(sound) else 0.0
    return 10 * np.log10(power) if power else float("-inf")


def speech_ratio(sound: np.ndarray, frames: int, fps: float) -> float:
    """Share of frames in which something is heard: above -50 dBFS, and within 25 dB of the clip's loud moments.

    Music counts, too: whose voice it is, or whether it is one, the sound's level does not tell.
    """
    level = 20 * np.log10(np.maximum(loudness_per_frame(sound, frames, fps), 1e-9))
    return float((level > max(-50.0, float(np.percentile(level, 95)) - 25)).mean())


def loudness_per_frame(sound: np.ndarray, frames: int, fps: float) -> np.ndarray:
    """float64 (F,): root mean square of the sound within one frame's time around each frame."""
    half = SAMPLE_RATE / fps / 2
    edges = np.clip(np.round((np.arange(frames + 1) / fps * SAMPLE_RATE) - half), 0, len(sound)).astype(int)
    total = np.concatenate([[0.0], np.cumsum(np.square(sound, dtype=np.float64))])
    return np.sqrt((total[edges[1:]] - total[edges[:-1]]) / np.maximum(np.diff(edges), 1))


def mouth_sound_correlation(opening: np.ndarray, sound: np.ndarray, fps: float) -> float:
    """Pearson r of mouth opening (F,) and loudness at lag 0, both smoothed over 5 frames; NaN where either is constant.

    A mouth that speaks goes with its sound (a few tenths and more); voice-over does not.
    """
    seen = np.isfinite(opening)
    if seen.sum() < 5:
        return float("nan")
    mouth = np.interp(np.arange(len(opening)), np.flatnonzero(seen), opening[seen])
    mean = np.ones(5) / 5
    mouth = np.convolve(mouth, mean, "valid")
    heard = np.convolve(loudness_per_frame(sound, len(opening), fps), mean, "valid")
    if mouth.std() < 1e-9 or heard.std() < 1e-9:
        return float("nan")
    return float(np.corrcoef(mouth, heard)[0, 1])
