"""Lags that are known: of the truth of a synthetic clip, of its file, and of a stand-in for SyncNet."""

import numpy as np
import pytest

from emo_core.evaluation.extractors import Setup, make
from emo_core.evaluation.sync import LAGS, MouthAndSound, SyncNet, lagged_correlation, mfcc
from emo_core.evaluation.watch import Job, look
from emo_data.film import encode_video
from emo_data.schema import FPS, SAMPLE_RATE
from emo_data.sound import read_sound
from emo_data.synthetic import synthesise_voice
from emo_data.video import decode_clip

FRAME = SAMPLE_RATE // FPS


def late(sound, frames):
    """The sound so many frames later, silence where there is none."""
    shifted = np.zeros_like(sound)
    cut = abs(frames) * FRAME
    if frames >= 0:
        shifted[cut:] = sound[: len(sound) - cut]
    else:
        shifted[:-cut] = sound[cut:]
    return shifted


@pytest.mark.parametrize("frames", [-9, -4, -1, 0, 1, 3, 8])
def test_a_shifted_sound_is_found(eval_sample, frames):
    for name, opening in eval_sample.openings.items():
        sound = late(read_sound(eval_sample.folder / name), frames)
        found = MouthAndSound().judge(opening[:, None], sound)
        assert abs(found.offset - frames) <= 1
        assert found.confidence > 0.6


@pytest.mark.parametrize("frames", [-6, 0, 5])
def test_a_shifted_sound_is_found_in_a_file(eval_sample, frames, tmp_path):
    video = eval_sample.clips[0]
    encode_video(tmp_path / "late.mp4", decode_clip(video.read_bytes()), FPS, late(read_sound(video), frames))
    found = look(Job(str(tmp_path / "late.mp4")), make(Setup(("sync",))))
    assert abs(found.sync.offset - frames) <= 1


def test_what_cannot_be_judged():
    voice = synthesise_voice(1, 4)
    for opening, sound in ((np.zeros(100), voice), (np.random.rand(100), np.zeros_like(voice)), (np.ones(9), voice)):
        with pytest.raises(ValueError, match="never changes"):
            MouthAndSound().judge(opening[:, None], sound)
    holes = np.where(np.arange(100) % 3 == 0, np.nan, np.random.rand(100))
    assert np.isfinite(lagged_correlation(holes, voice, 2))


class Towers:
    """Hears how loud each window is, and says it in 1024 numbers."""

    file, sha256 = "syncnet.pt", ""

    def __call__(self, rows, width, method):
        assert method == "forward_aud" and rows.shape[1:] == (1, 13, 20) and rows.dtype == np.float32
        return np.repeat(rows[:, 0, 0].mean(axis=1)[:, None] / 32, width, axis=1)


@pytest.mark.parametrize("frames", [-7, 0, 4])
def test_syncnet_arithmetic(frames):
    """Lips that embed exactly what the sound said before it was shifted."""
    sound = synthesise_voice(3, 5)
    heard = mfcc(sound)
    count = len(heard) // 4
    windows = [heard[4 * (end - 4) : 4 * (end + 1)].T for end in range(4, count)]
    lips = np.full((125, 1024), np.nan, np.float32)
    lips[4:count] = Towers()(np.stack(windows)[:, None].astype(np.float32), 1024, "forward_aud")
    lips[40:44] = np.nan
    found = SyncNet(Towers()).judge(lips, late(sound, frames))
    assert found.offset == frames
    assert found.distance < 0.5 and found.confidence > 5 * found.distance
    assert frames in LAGS


def test_cepstra():
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    tone = 0.5 * np.sin(2 * np.pi * 440 * time)
    found = mfcc(tone)
    assert found.shape == (99, 13)
    scaled = tone * 32768
    piece = np.concatenate([scaled[:1], scaled[1:] - 0.97 * scaled[:-1]])[160:560]
    spectrum = np.array([np.sum(piece * np.exp(-2j * np.pi * k * np.arange(400) / 512)) for k in range(257)])
    assert found[1, 0] == pytest.approx(np.log((np.abs(spectrum) ** 2 / 512).sum()))
    assert np.abs(mfcc(2 * tone)[:, 1:] - found[:, 1:]).max() < 1e-6  # loudness is in the first coefficient alone
    assert np.abs(mfcc(0.5 * np.sin(2 * np.pi * 2000 * time))[50, 1:] - found[50, 1:]).max() > 10


def test_cepstra_are_those_that_syncnet_was_trained_on():
    """Frame 50 of python_speech_features 0.6 for the same sound."""
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    sweep = 0.5 * np.sin(2 * np.pi * (100 + 1500 * time) * time) + 0.1 * np.sin(2 * np.pi * 5000 * time)
    known = [23.312, -4.661, -23.902, -9.152, 15.521, 42.261, -66.318, 22.831, -5.106, 30.131, -14.7, -30.24, 31.174]
    assert mfcc(sweep)[50] == pytest.approx(known, abs=1e-3)
