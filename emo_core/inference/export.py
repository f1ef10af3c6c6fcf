"""Frames become files: a video with its sound and its provenance, and a contact sheet to look at."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from emo_data.film import join_videos
from emo_data.sound import FILM_RATE
from emo_data.video import probe, read_pictures
from emo_data.whole import whole_file

MARK = "Made by a machine from one picture and a voice (Open EMO). It shows nothing that happened."
"""Stands in the metadata of every generated video."""
SHEET_FRAMES, SHEET_SIDE = 32, 192
"""How many frames a contact sheet shows, and the pixels of the longer side of each."""


def write_talking(
    path: Path, segments: Sequence[Path], sound: Iterable[np.ndarray], provenance: Mapping[str, Any]
) -> None:
    """Write a generated video, all or nothing, in constant memory.

    segments: of its picture, see `emo_core.inference.unfinished`. sound: see `film_sound`. provenance: JSON for the
    mp4's metadata; without times, so that a video that is made again is the same, byte for byte.
    """
    metadata = {"comment": MARK, "description": json.dumps(provenance, sort_keys=True)}
    with whole_file(path) as unfinished:
        join_videos(unfinished, segments, sound, FILM_RATE, metadata)


def write_sidecar(video: Path, settings: Mapping[str, Any], seconds: float) -> None:
    """Write VIDEO.json beside a video: all that it was made from and how, when, and how long it took."""
    told = {"note": MARK, **settings, "made": datetime.now(UTC).isoformat(timespec="seconds"), "took_seconds": seconds}
    with whole_file(video.with_suffix(".json")) as unfinished:
        unfinished.write_text(json.dumps(told, indent=1) + "\n")


def write_sheet(video: Path, path: Path) -> None:
    """A contact sheet of a finished video, evenly chosen."""
    info = probe(video)
    wanted = np.unique(np.linspace(0, len(info.pts) - 1, SHEET_FRAMES).astype(int))
    scale = min(1.0, SHEET_SIDE / max(info.width, info.height))
    size = (round(info.width * scale), round(info.height * scale))
    shown = [
        np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))
        for picture in read_pictures(info, wanted, "pyav")
        if picture is not None
    ]
    save_picture(contact_sheet(np.stack(shown), columns=8), path)


def stamp(frame: np.ndarray) -> np.ndarray:
    """A frame that says, for everybody to read, that a machine made it. uint8 (H, W, 3)."""
    picture = Image.fromarray(frame)
    size = max(8, frame.shape[0] // 24)
    ImageDraw.Draw(picture).text(
        (size // 2, frame.shape[0] - size // 2),
        "AI generated",
        fill="white",
        font=ImageFont.load_default(size),
        anchor="ls",
        stroke_width=max(1, size // 10),
        stroke_fill="black",
    )
    return np.asarray(picture)


def save_picture(picture: np.ndarray, path: Path) -> None:
    """Write uint8 (H, W, 3) as a PNG, all or nothing."""
    with whole_file(path) as unfinished:
        Image.fromarray(picture).save(unfinished, format="PNG")


def contact_sheet(frames: np.ndarray, columns: int) -> np.ndarray:
    """uint8 (F, H, W, 3) -> one picture, row by row; what is missing of the last row stays white."""
    count, height, width, _ = frames.shape
    rows = -(-count // columns)
    sheet = np.full((rows * columns, height, width, 3), 255, np.uint8)
    sheet[:count] = frames
    grid = sheet.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    return grid.reshape(rows * height, columns * width, 3)
