"""Judge a talking video by the mp4 alone. Shares no code with the product, so that neither can hide the other's faults.

    python tests/measure_talking.py talking.mp4 --sound voice.wav --dataset build/demo/data --clip-frames 12 --json

Faces: MediaPipe Face Mesh on every picture, enlarged to at least 256 pixels. `face` follows the face from frame to
frame (static_image_mode=False), `face_alone` looks at each picture as if it were the only one (for information).
Mouth: distance of the inner lips (landmarks 13-14) over the height of the face (10-152), correlated with the root mean
square of the reference sound in each frame's own time, over the frames with a face.
Motion: mean absolute RGB difference of neighbouring frames, over the same of the training pictures. Those are brought
to the video's size first: centre square, then area resampling. --dataset takes the crops that the model was trained on,
--training a folder of mp4 files.
Joins: differences across the border of two clips (frames k*f-1 and k*f), median, over the median inside clips.

Voice: with --other, a video of the same portrait and seed for another voice: mean difference of the two videos around
the lips (their box, twice as large), over the same everywhere else. A model that ignores the voice has about 1.

Exit code 0: every bar is met, 1: a bar is missed (each is named), 2: bad input.
"""

import argparse
import io
import itertools
import json
import sys
from pathlib import Path

import av
import cv2
import numpy as np
from scipy.signal import correlate

FPS = 25
RATE = 16_000
LAGS = range(-5, 6)
UPPER_LIP, LOWER_LIP, FOREHEAD, CHIN = 13, 14, 10, 152
LIPS = (61, 291, 0, 17)
"""Corners, top and bottom."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("--sound", type=Path, required=True, help="the sound that the video was made for")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--training", type=Path, help="folder of mp4 files")
    source.add_argument("--dataset", type=Path, help="dataset folder with clips/*.parquet")
    parser.add_argument("--other", type=Path, help="the same portrait and seed with another voice")
    parser.add_argument("--clip-frames", type=int, default=12)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        measures = measure(options)
    except (OSError, ValueError, av.FFmpegError) as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 2
    missed = [f"{name} = {value} (must be {rule})" for name, value, rule, met in bars(measures) if not met]
    if options.json:
        print(json.dumps({**measures, "missed": missed}))
    else:
        for name, value in measures.items():
            print(f"{name:26s}{value}")
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    return 1 if missed else 0


def measure(options: argparse.Namespace) -> dict[str, float]:
    pictures = read_pictures(options.video)
    if len(pictures) < 2 * options.clip_frames:
        raise ValueError(f"{options.video} has only {len(pictures)} frames: two clips at least are needed")
    voice = read_sound(options.sound)
    sound = read_sound(options.video)
    opening = mouth_opening(pictures, alone=False)
    loudness = loudness_per_frame(voice, len(pictures))
    by_lag = {lag: correlation(opening, loudness, lag) for lag in LAGS}
    best = max(by_lag, key=lambda lag: by_lag[lag])
    steps = differences(pictures)
    training = training_differences(options, pictures.shape[2], pictures.shape[1])
    is_join = np.arange(1, len(pictures)) % options.clip_frames == 0
    voices = {"mouth_over_rest": mouth_over_rest(pictures, read_pictures(options.other))} if options.other else {}
    return voices | {
        "frames": len(pictures),
        "frames_due": round(len(voice) / RATE * FPS),
        "fps": rate_of(options.video),
        "sound_seconds": round(sound_length(options.video), 4),
        "voice_seconds": round(len(voice) / RATE, 4),
        "sound_offset": round(offset_seconds(sound, voice), 4),
        "face": round(float(np.isfinite(opening).mean()), 4),
        "face_alone": round(float(np.isfinite(mouth_opening(pictures, alone=True)).mean()), 4),
        "mouth_r": round(by_lag[0], 4),
        "mouth_r_best": round(by_lag[best], 4),
        "mouth_r_best_lag": best,
        "mouth_opening_median": round(float(np.nanmedian(opening)), 4) if np.isfinite(opening).any() else 0.0,
        "motion": round(float(steps.mean() / training.mean()), 4),
        "motion_median": round(float(np.median(steps) / np.median(training)), 4),
        "joins": round(float(np.median(steps[is_join]) / np.median(steps[~is_join])), 4),
    }


def bars(measures: dict[str, float]) -> list[tuple[str, float, str, bool]]:
    """(name, value, rule, met) of everything that must hold."""
    late = abs(measures["sound_seconds"] - measures["voice_seconds"])
    ratio = measures.get("mouth_over_rest")
    voices = [] if ratio is None else [("mouth_over_rest", ratio, ">= 1.5", ratio >= 1.5)]
    return [
        *voices,
        ("face", measures["face"], ">= 0.95", measures["face"] >= 0.95),
        ("mouth_r", measures["mouth_r"], ">= 0.4", measures["mouth_r"] >= 0.4),
        ("motion", measures["motion"], ">= 0.3", measures["motion"] >= 0.3),
        ("joins", measures["joins"], "<= 1.5", measures["joins"] <= 1.5),
        ("fps", measures["fps"], f"{FPS}", measures["fps"] == FPS),
        ("frames", measures["frames"], f"{measures['frames_due']}", measures["frames"] == measures["frames_due"]),
        ("sound_seconds", measures["sound_seconds"], f"{measures['voice_seconds']} +- 0.04", late <= 0.04),
        ("sound_offset", measures["sound_offset"], "within 0.04", abs(measures["sound_offset"]) <= 0.04),
    ]


def read_pictures(source: Path | io.BytesIO) -> np.ndarray:
    """RGB uint8 (frames, height, width, 3)."""
    with av.open(source) as container:
        if not container.streams.video:
            raise ValueError(f"{source} has no picture")
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def rate_of(source: Path) -> float:
    with av.open(source) as container:
        return float(container.streams.video[0].average_rate or 0)


def read_sound(source: Path) -> np.ndarray:
    """Mono in -1..1 at RATE."""
    with av.open(source) as container:
        if not container.streams.audio:
            raise ValueError(f"{source} has no sound")
        resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
        blocks = [block for frame in container.decode(audio=0) for block in resampler.resample(frame)]
        blocks += resampler.resample(None)
    return np.concatenate([block.to_ndarray()[0] for block in blocks])


def sound_length(source: Path) -> float:
    """Seconds that a player plays: what the container declares, since the codec pads its last block."""
    with av.open(source) as container:
        stream = container.streams.audio[0]
        if stream.duration is None or stream.time_base is None:
            raise ValueError(f"{source} does not say how long its sound is")
        return float(stream.duration * stream.time_base)


def offset_seconds(sound: np.ndarray, voice: np.ndarray) -> float:
    """How much later the video's sound comes than the reference, by the peak of their cross-correlation."""
    return float(np.argmax(correlate(sound, voice)) - (len(voice) - 1)) / RATE


def mouth_opening(pictures: np.ndarray, alone: bool) -> np.ndarray:
    """(frames,): inner lip distance over face height; NaN where no face is found."""
    points = landmarks(pictures, (UPPER_LIP, LOWER_LIP, FOREHEAD, CHIN), alone)
    upper, lower, forehead, chin = points.swapaxes(0, 1)
    return np.linalg.norm(upper - lower, axis=1) / np.linalg.norm(forehead - chin, axis=1)


def landmarks(pictures: np.ndarray, wanted: tuple[int, ...], alone: bool) -> np.ndarray:
    """(frames, wanted, 2): x and y in pixels; NaN where no face is found."""
    from mediapipe import solutions

    height, width = pictures.shape[1:3]
    scale = max(1.0, 256 / min(height, width))
    size = (round(width * scale), round(height * scale))
    points = np.full((len(pictures), len(wanted), 2), np.nan)
    with solutions.face_mesh.FaceMesh(static_image_mode=alone, max_num_faces=1) as mesh:
        for index, picture in enumerate(pictures):
            found = mesh.process(cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC)).multi_face_landmarks
            if found:
                marks = [found[0].landmark[i] for i in wanted]
                points[index] = [(mark.x * width, mark.y * height) for mark in marks]
    return points


def mouth_over_rest(pictures: np.ndarray, other: np.ndarray) -> float:
    """How much more two videos differ around the first one's lips than elsewhere, over the frames of the shorter."""
    lips = landmarks(pictures, LIPS, alone=False)
    mouth, rest = [], []
    for picture, changed, points in zip(pictures, other, lips, strict=False):
        if np.isfinite(points).all():
            centre, reach = (points.min(0) + points.max(0)) / 2, points.max(0) - points.min(0)
            (x0, y0), (x1, y1) = (
                np.clip(centre + side * reach, 0, picture.shape[1::-1]).astype(int) for side in (-1, 1)
            )
            difference = cv2.absdiff(picture, changed).mean(2)
            around = np.zeros(difference.shape, bool)
            around[y0:y1, x0:x1] = True
            mouth.append(difference[around].mean())
            rest.append(difference[~around].mean())
    if not mouth:
        raise ValueError("no face in the first video")
    return round(float(np.mean(mouth) / max(np.mean(rest), 1e-6)), 4)


def loudness_per_frame(voice: np.ndarray, frames: int) -> np.ndarray:
    """Root mean square of the sound in each frame's 40 ms; zero where the sound is over."""
    samples = RATE // FPS
    padded = np.zeros(frames * samples)
    padded[: min(len(voice), len(padded))] = voice[: len(padded)]
    return np.sqrt((padded.reshape(frames, samples) ** 2).mean(1))


def correlation(opening: np.ndarray, loudness: np.ndarray, lag: int) -> float:
    """Pearson's r of the mouth with the sound `lag` frames before it, over frames with a face; 0 if undefined."""
    frame = np.arange(len(opening))
    usable = np.isfinite(opening) & (frame - lag >= 0) & (frame - lag < len(loudness))
    mouth, sound = opening[usable], loudness[frame[usable] - lag]
    if usable.sum() < 3 or mouth.std() == 0 or sound.std() == 0:
        return 0.0
    return float(np.corrcoef(mouth, sound)[0, 1])


def differences(pictures: np.ndarray) -> np.ndarray:
    """(frames - 1,): mean absolute difference of neighbouring frames, 0-255."""
    return np.array([cv2.absdiff(a, b).mean() for a, b in itertools.pairwise(pictures)])


def training_differences(options: argparse.Namespace, width: int, height: int) -> np.ndarray:
    """The differences inside every training clip, brought to the video's size."""
    if options.dataset:
        import pyarrow.parquet as pq

        files = sorted((options.dataset / "clips").glob("*.parquet"))
        clips = [io.BytesIO(video) for file in files for video in pq.read_table(file)["video"].to_pylist()]
    else:
        clips = sorted(options.training.glob("*.mp4"))
    if not clips:
        raise ValueError(f"no training clips in {options.dataset or options.training}")
    return np.concatenate([differences(shrink(read_pictures(clip), width, height)) for clip in clips])


def shrink(pictures: np.ndarray, width: int, height: int) -> np.ndarray:
    side = min(pictures.shape[1:3])
    top, left = (pictures.shape[1] - side) // 2, (pictures.shape[2] - side) // 2
    square = pictures[:, top : top + side, left : left + side]
    return np.stack([cv2.resize(p, (width, height), interpolation=cv2.INTER_AREA) for p in square])


if __name__ == "__main__":
    sys.exit(main())
