"""A person's files become what the pipeline takes: portrait, region and speed (EMO 3.2.5, Figure 7)."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from emo_core.inference.pipeline import Portrait
from emo_data.dataset.window import region_mask
from emo_data.errors import UserError
from emo_data.features.faces import find_faces
from emo_data.features.framing import Square, boxes_in_square, crop, frame_face

ROOM = (0.4, 0.3)
"""Not in the paper: "auto" lets the face move by this share of its width and height, about as far as in speech."""
SPEEDS = {"still": 0.1, "calm": 0.4, "lively": 1.0, "singing": 1.3}
"""Degrees per frame behind the words (EMO 4.5.1: speech 0.1 to 1.0, singing 1.0 to 1.3)."""


def read_picture(path: Path) -> np.ndarray:
    """Any still picture as upright RGB uint8 (H, W, 3); what is transparent becomes white."""
    try:
        with Image.open(path) as picture:
            upright = ImageOps.exif_transpose(picture)
            if "A" in upright.getbands() or "transparency" in upright.info:
                layer = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
            return np.asarray(upright.convert("RGB"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be read as a picture: {error}") from error


def frame_portrait(path: Path, size: int, region: str) -> Portrait:
    """The square around the only face of a picture, and the region it may move in.

    region: "auto" (the face and some room), "all", "x0,y0,x1,y1" in 0-1 of the framed picture, or a mask's file.
    """
    picture = read_picture(path)
    faces = find_faces(picture)
    if not faces:
        raise UserError(f"{path}: no face found; choose a picture in which one face is large and turned to the viewer")
    if len(faces) > 1:
        raise UserError(f"{path}: shows {len(faces)} faces; crop it so that only the one that shall speak is left")
    height, width = picture.shape[:2]
    square = frame_face(faces[0].box, width, height)
    framed = torch.from_numpy(crop(picture, square, size)).movedim(-1, 0).float() / 127.5 - 1
    box = boxes_in_square(faces[0].box[None], square)
    return Portrait(framed, torch.from_numpy(_region(region, box, square, (height, width), size)))


def _region(region: str, box: np.ndarray, square: Square, shape: tuple[int, int], size: int) -> np.ndarray:
    if region == "auto":
        return region_mask(box, size, ROOM)
    if region == "all":
        return np.ones((1, size, size), np.float32)
    numbers = region.split(",")
    if len(numbers) == 4:
        return region_mask(_parse_box(region, numbers)[None], size)
    mask = read_picture(Path(region))
    if mask.shape[:2] != shape:
        raise UserError(
            f"{region}: the mask has {mask.shape[1]} x {mask.shape[0]} pixels, the portrait {shape[1]} x {shape[0]}; "
            "draw it on the portrait"
        )
    return (crop(mask, square, size)[None, ..., 0] > 127).astype(np.float32)


def _parse_box(region: str, numbers: list[str]) -> np.ndarray:
    try:
        x0, y0, x1, y1 = map(float, numbers)
    except ValueError as error:
        raise UserError(f"--region {region}: these are not four numbers") from error
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise UserError(f"--region {region}: needs 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1")
    return np.array([x0, y0, x1, y1], np.float32)


def parse_speed(speed: str, frames: int, fps: float) -> np.ndarray:
    """Head speed of every frame, float32 (F,) in degrees per frame.

    speed: a number, a word of SPEEDS, or a CSV file of lines "seconds,speed", linear in between.
    """
    if speed in SPEEDS:
        return np.full(frames, SPEEDS[speed], np.float32)
    if Path(speed).suffix == ".csv":
        return _speed_curve(Path(speed), frames, fps)
    try:
        value = float(speed)
    except ValueError as error:
        raise UserError(
            f"--speed {speed}: give degrees per frame (0 to 2), {', '.join(SPEEDS)}, or a .csv of seconds,speed"
        ) from error
    if not 0 <= value <= 2:
        raise UserError(f"--speed {speed}: must lie between 0 and 2 degrees per frame")
    return np.full(frames, value, np.float32)


def _speed_curve(path: Path, frames: int, fps: float) -> np.ndarray:
    try:
        table = np.loadtxt(path, delimiter=",", ndmin=2)
    except FileNotFoundError as error:
        raise UserError(f"--speed {path}: no such file") from error
    except ValueError as error:
        raise UserError(f"--speed {path}: {error}; every line must be seconds,speed") from error
    if table.shape[1] != 2 or not len(table) or (np.diff(table[:, 0]) <= 0).any():
        raise UserError(f"--speed {path}: every line must be seconds,speed with rising seconds")
    if not ((table[:, 1] >= 0) & (table[:, 1] <= 2)).all():
        raise UserError(f"--speed {path}: speeds must lie between 0 and 2 degrees per frame")
    return np.interp(np.arange(frames) / fps, table[:, 0], table[:, 1]).astype(np.float32)
