"""The judge of the finished video is judged: a good video meets every bar, a video made to miss a bar misses it."""

import json
import subprocess
import sys
import wave
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from skimage.data import astronaut

JUDGE = Path(__file__).with_name("measure_talking.py")
SECONDS, FPS, RATE, CLIP = 4, 25, 16_000, 12


def write_video(path, pictures, sound, late=0):
    """An mp4 without key frames at the joins; `late` samples of silence come first."""
    with av.open(path, "w") as container:
        video = container.add_stream("libx264", rate=FPS, options={"crf": "12", "g": "250"})
        video.width = video.height = 128
        audio = container.add_stream("aac", rate=RATE, layout="mono")
        for picture in pictures:
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
        samples = np.concatenate([np.zeros(late, np.float32), sound[: len(sound) - late]])
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        container.mux(audio.encode(frame))
        container.mux(audio.encode())


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A photograph whose mouth opens with a pulsing tone: (folder, pictures, sound)."""
    folder = tmp_path_factory.mktemp("scene")
    time = np.arange(SECONDS * RATE) / RATE
    noise = np.random.default_rng(0).standard_normal(len(time))
    sound = (0.2 * noise * np.sin(2 * np.pi * 0.9 * time) ** 2).astype(np.float32)
    with wave.open(str(folder / "voice.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((sound.clip(-1, 1) * 32767).astype("<i2").tobytes())
    loud = np.sqrt((sound.reshape(-1, RATE // FPS) ** 2).mean(1))
    pictures = [portrait(opening, k) for k, opening in enumerate(loud / loud.max())]
    (folder / "training").mkdir()
    write_video(folder / "training" / "clip.mp4", pictures, sound)
    return folder, pictures, sound


def portrait(opening, index):
    """The face, swaying, its part below the lips pushed down by up to 14 of 256 pixels, the gap dark."""
    face = np.ascontiguousarray(astronaut()[0:256, 96:352])
    lips, chin, gap = 148, 190, round(14 * opening)
    x0, x1 = 108, 152
    if gap:
        lower = face[lips:chin, x0:x1].copy()
        face[lips : lips + gap, x0:x1] = (40, 10, 10)
        face[lips + gap : chin, x0:x1] = cv2.resize(lower, (x1 - x0, chin - lips - gap))
    sway = np.float32([[1, 0, 4 * np.sin(index / 4)], [0, 1, 0]])
    moved = cv2.warpAffine(face, sway, (256, 256), borderMode=cv2.BORDER_REFLECT)
    return cv2.resize(moved, (128, 128), interpolation=cv2.INTER_AREA)


def judge(folder, video, *more):
    """(exit code, measures) of the script, run as a user runs it."""
    command = [
        sys.executable,
        JUDGE,
        video,
        "--sound",
        folder / "voice.wav",
        "--training",
        folder / "training",
        "--json",
        *more,
    ]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    return done.returncode, json.loads(done.stdout) if done.stdout else {}


def test_a_good_video_meets_every_bar(scene, tmp_path):
    folder, pictures, sound = scene
    write_video(tmp_path / "good.mp4", pictures, sound)
    code, measures = judge(folder, tmp_path / "good.mp4")
    assert (code, measures["missed"]) == (0, [])
    assert abs(measures["mouth_r_best_lag"]) <= 1
    assert measures["motion"] == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("bar", ["face", "mouth_r", "motion", "joins", "frames", "sound_offset"])
def test_a_bad_video_misses_its_bar(scene, tmp_path, bar):
    folder, pictures, sound = scene
    late = 0
    match bar:
        case "face":
            pictures = [np.full_like(p, 128) if 20 <= k < 40 else p for k, p in enumerate(pictures)]
        case "mouth_r":
            pictures = pictures[10:] + pictures[:10]
        case "motion":
            pictures = [pictures[0]] * len(pictures)
        case "joins":
            pictures = [np.roll(picture, 4 * (k // CLIP % 2), axis=1) for k, picture in enumerate(pictures)]
        case "frames":
            pictures = pictures[: len(pictures) // CLIP * CLIP]
        case "sound_offset":
            late = RATE // 10
    write_video(tmp_path / "bad.mp4", pictures, sound, late)
    code, measures = judge(folder, tmp_path / "bad.mp4")
    assert code == 1
    assert bar in [line.split()[0] for line in measures["missed"]]


def test_another_voice_must_move_the_mouth(scene, tmp_path):
    """The mouth, not the whole picture: one that stays shut passes, another brightness does not."""
    folder, pictures, sound = scene
    write_video(tmp_path / "one.mp4", pictures, sound)
    still = [portrait(0.0, k) for k in range(len(pictures))]
    write_video(tmp_path / "shut.mp4", still, sound)
    write_video(tmp_path / "darker.mp4", [cv2.convertScaleAbs(picture, alpha=0.8) for picture in pictures], sound)
    code, measures = judge(folder, tmp_path / "one.mp4", "--other", tmp_path / "shut.mp4")
    assert (code, measures["missed"]) == (0, []) and measures["mouth_over_rest"] > 3
    code, measures = judge(folder, tmp_path / "one.mp4", "--other", tmp_path / "darker.mp4")
    assert code == 1 and measures["mouth_over_rest"] < 1.5


def test_bad_input_is_refused(scene, tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    assert judge(scene[0], tmp_path / "empty.mp4")[0] == 2
