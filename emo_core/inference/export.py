"""Frames become files: an mp4 with its sound, and a contact sheet to look at."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from emo_data.video import encode_video
from emo_data.whole import whole_file

MARK = "Made by a machine from one picture and a voice (Open EMO). It shows nothing that happened."
"""Stands in the metadata of every generated video."""


SHEET_FRAMES = 32


def write_talking(
    path: Path, frames: Iterable[np.ndarray], fps: float, sound: np.ndarray, sample_rate: int, preview: Path | None
) -> None:
    """Write a generated video, all or nothing; clip by clip, in constant memory.

    frames: blocks of uint8 (f, pixels, pixels, 3). sound: float32 mono. preview: where a contact sheet goes.
    """
    due = round(len(sound) / sample_rate * fps)
    wanted = set(np.linspace(0, due - 1, SHEET_FRAMES).astype(int)) if preview is not None else set()
    kept: list[np.ndarray] = []
    with whole_file(path) as unfinished:
        one_by_one = _keep(frames, wanted, kept)
        encode_video(unfinished, one_by_one, fps, sound, sample_rate, crf=12, key_frame_seconds=10, comment=MARK)
        if preview is not None:
            save_picture(contact_sheet(np.stack(kept), columns=8), preview)


def _keep(blocks: Iterable[np.ndarray], wanted: set[int], kept: list[np.ndarray]) -> Iterator[np.ndarray]:
    """The frames one by one; those whose numbers are wanted are also kept."""
    for number, frame in enumerate(frame for block in blocks for frame in block):
        if number in wanted:
            kept.append(frame.copy())  # not a view, which would keep its whole block
        yield frame


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
