"""Pictures and sound in and out of files: encode with PyAV, decode with decord."""

import io
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def encode_video(
    target: Path | io.BytesIO,
    frames: Iterable[np.ndarray],
    fps: float,
    sound: np.ndarray | None = None,
    sample_rate: int = 16_000,
    crf: int = 18,
) -> None:
    """Write an mp4 (H.264, AAC) whose picture has a key frame every half second.

    frames: RGB uint8 (H, W, 3), even H and W, all alike. sound: float32 mono in -1..1 or None.
    """
    with av.open(target, "w", format="mp4", options={"movflags": "+faststart"}) as container:
        rate = Fraction(fps).limit_denominator(1001)
        video = container.add_stream("libx264", rate=rate, options={"crf": str(crf), "preset": "veryfast"})
        video.pix_fmt = "yuv420p"
        video.codec_context.gop_size = max(1, round(fps / 2))
        audio = None
        if sound is not None:
            audio = container.add_stream("aac", rate=sample_rate, layout="mono")
        for index, picture in enumerate(frames):
            if index == 0:
                video.height, video.width = picture.shape[:2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if audio is not None and sound is not None:
            pcm = np.ascontiguousarray(sound, dtype=np.float32)[None]
            wave = av.AudioFrame.from_ndarray(pcm, format="fltp", layout="mono")
            wave.sample_rate = sample_rate
            container.mux(audio.encode(wave))
            container.mux(audio.encode())
