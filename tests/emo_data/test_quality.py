import numpy as np
import pytest

from emo_data.features.quality import brightness, loudness, loudness_per_frame, mouth_sound_correlation, sharpness

FACE = np.array([0.25, 0.25, 0.75, 0.75])


def test_sharpness_and_brightness_are_of_the_face():
    rng = np.random.default_rng(0)
    picture = np.full((64, 64, 3), 250, np.uint8)
    picture[16:48, 16:48] = 100
    assert brightness(picture, FACE) == pytest.approx(100, abs=10)
    flat = sharpness(picture, np.array([0.3, 0.3, 0.7, 0.7]))
    picture[16:48, 16:48] = rng.integers(0, 255, (32, 32, 3))
    assert flat < 1 < 1000 < sharpness(picture, FACE)


def test_loudness_is_dbfs():
    assert loudness(np.ones(100, np.float32)) == pytest.approx(0)
    assert loudness(np.full(100, 0.1, np.float32)) == pytest.approx(-20, abs=1e-4)
    assert loudness(np.zeros(100, np.float32)) == loudness(np.zeros(0, np.float32)) == float("-inf")


def test_a_speaking_mouth_goes_with_its_sound_and_voice_over_does_not():
    rng = np.random.default_rng(0)
    opening = np.convolve(rng.random(125), np.ones(5) / 5, "same")
    sound = np.repeat(opening, 640) * rng.normal(0, 0.2, 125 * 640)
    assert np.corrcoef(loudness_per_frame(sound, 125, 25), opening)[0, 1] > 0.8
    assert mouth_sound_correlation(opening, sound, 25) > 0.8
    assert mouth_sound_correlation(np.roll(opening, 60), sound, 25) < 0.5
    opening[10:20] = np.nan
    assert mouth_sound_correlation(opening, sound, 25) > 0.7
    assert np.isnan(mouth_sound_correlation(opening, np.zeros_like(sound), 25))
    assert np.isnan(mouth_sound_correlation(opening * np.nan, sound, 25))
