"""Frames become files: an mp4 with its sound, and a contact sheet to look at."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from emo_data.video import encode_video

MARK = "Made by a machine from one picture and a voice (Open EMO). It shows nothing that happened."
"""Stands in the metadata of every generated video."""


def write_talking(
    path: Path, frames: Iterable[np.ndarray], fps: float, sound: np.ndarray, sample_rate: int, preview: Path | None
) -> None:
    """Write a generated video, all or nothing; clip by clip, in constant memory.

    frames: blocks of uint8 (f, pixels, pixels, 3). sound: float32 mono. preview: where a contact sheet goes.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    kept: list[np.ndarray] = []
    try:
        encode_video(
            unfinished, _keep_some(frames, kept), fps, sound, sample_rate, crf=12, key_frame_seconds=10, comment=MARK
        )
        if preview is not None:
            picks = np.linspace(0, len(kept) - 1, min(32, len(kept))).round().astype(int)
            Image.fromarray(contact_sheet(np.stack([kept[pick] for pick in picks]), columns=8)).save(preview)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _keep_some(blocks: Iterable[np.ndarray], kept: list[np.ndarray]) -> Iterator[np.ndarray]:
    """The frames one by one; of each block the first and middle ones are also kept for the contact sheet."""
    for block in blocks:
        kept += [block[0], block[len(block) // 2]]
        yield from block


def contact_sheet(frames: np.ndarray, columns: int) -> np.ndarray:
    """uint8 (F, H, W, 3) -> one picture, row by row; what is missing of the last row stays white."""
    count, height, width, _ = frames.shape
    rows = -(-count // columns)
    sheet = np.full((rows * columns, height, width, 3), 255, np.uint8)
    sheet[:count] = frames
    grid = sheet.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    return grid.reshape(rows * height, columns * width, 3)
