"""A person's files become what the pipeline takes: portrait, region and speed (EMO 3.2.5, Figure 7)."""

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from emo_core.inference.pipeline import Portrait
from emo_data.dataset.window import region_mask
from emo_data.errors import UserError
from emo_data.features.faces import Face, find_faces
from emo_data.features.framing import Square, boxes_in_square, crop, frame_face

ROOM = (0.4, 0.3)
"""Not in the paper: "auto" lets the face move by this share of its width and height, about as far as in speech."""
SPEEDS = {"still": 0.1, "calm": 0.4, "lively": 1.0, "singing": 1.3}
"""Degrees per frame behind the words (EMO 4.5.1: speech 0.1 to 1.0, singing 1.0 to 1.3)."""
FASTEST = 2
"""Degrees per frame that can be asked for."""
JITTERS = 1.5
"""Degrees per frame above which heads jitter (EMO 4.5.1)."""


MAX_PIXELS = 120_000_000
"""Of a portrait: what the largest cameras make, 360 MB once it is decoded. A file of some kilobytes can claim more."""
SEEN = 0.8
"""Of a face's box that must lie in the picture: with less, one eye or the mouth is missing."""


@dataclass(frozen=True)
class Choice:
    """Which face of a picture speaks, where there are several."""

    face: int | None = None
    """Its number, from left to right, beginning with 1."""
    crop: tuple[float, float, float, float] | None = None
    """x0, y0, x1, y1 in 0-1: only this part of the picture is looked at."""


class NoPicture(UserError):
    """A file is not there, is no picture, or claims more pixels than any has."""


_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""What Pillow reads by itself: for others it would start a program."""


def read_picture(path: Path, ground: str = "white") -> np.ndarray:
    """Any still picture as upright RGB uint8 (H, W, 3). ground: under what is transparent. Raises NoPicture."""
    try:
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
            opened = Image.open(path, formats=_FORMATS)
        with opened as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise NoPicture(f"{path}: claims {width} x {height} pixels; make it smaller, {MAX_PIXELS:,} are enough")
            upright = ImageOps.exif_transpose(picture)
            if "A" in upright.getbands() or "transparency" in upright.info:
                layer = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", layer.size, ground), layer)
            if upright.mode.startswith("I") or upright.mode == "F":  # Pillow would cut what is above 255
                upright = _in_8_bits(upright)
            return np.asarray(upright.convert("RGB"))
    except FileNotFoundError as error:
        raise NoPicture(f"{path}: no such file") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise NoPicture(f"{path}: cannot be read as a picture: {error}") from error


def _in_8_bits(picture: Image.Image) -> Image.Image:
    """A picture of one channel with more than 8 bits: 16, or as many as it uses."""
    values = np.nan_to_num(np.asarray(picture).astype(np.float64))
    full = 65535 if picture.mode.startswith("I") else 1
    return Image.fromarray((np.clip(values / max(full, values.max()), 0, 1) * 255).round().astype(np.uint8))


class SeveralFaces(UserError):
    """It is not clear which of so many shall speak."""

    def __init__(self, sentence: str, count: int) -> None:
        super().__init__(sentence, count)
        self.count = count

    def __str__(self) -> str:
        return str(self.args[0])


class Framed(NamedTuple):
    """A portrait, and where it was cut out: whole picture uint8 (H, W, 3), and the square in its pixels."""

    portrait: Portrait
    whole: np.ndarray
    square: Square
    face: np.ndarray
    """x0, y0, x1, y1 of the face that shall speak, in 0-1 of the square."""
    faces: int
    """That the picture shows."""


def frame_portrait(path: Path, size: int, region: str, choice: Choice) -> Framed:
    """The square around the face that shall speak, and the region it may move in.

    region: "auto" (the face and some room), "all", "x0,y0,x1,y1" in 0-1 of the framed picture, or a mask's file, drawn
    on the whole picture.
    """
    whole = read_picture(path)
    part = _part(whole, choice.crop)
    picture = np.ascontiguousarray(whole[part])
    faces = sorted(find_faces(picture), key=lambda face: face.box[0])
    face = _the_face(path, picture, faces, choice)
    height, width = picture.shape[:2]
    square = frame_face(face.box, width, height)
    framed = torch.from_numpy(crop(picture, square, size)).movedim(-1, 0).float() / 127.5 - 1
    box = boxes_in_square(face.box[None], square)[0]
    portrait = Portrait(framed, torch.from_numpy(_region(region, box, square, whole.shape, part, size)))
    rows, columns = part
    placed = Square(square.x + columns.start, square.y + rows.start, square.side)
    return Framed(portrait, whole, placed, box, len(faces))


def _part(picture: np.ndarray, box: tuple[float, float, float, float] | None) -> tuple[slice, slice]:
    height, width = picture.shape[:2]
    x0, y0, x1, y1 = box or (0, 0, 1, 1)
    _check_box(f"--crop {x0:g},{y0:g},{x1:g},{y1:g}", x0, y0, x1, y1)
    return slice(int(y0 * height), math.ceil(y1 * height)), slice(int(x0 * width), math.ceil(x1 * width))


def _the_face(path: Path, picture: np.ndarray, faces: list[Face], choice: Choice) -> Face:
    """UserError where it is not clear which one, or it is not all there. faces: from left to right."""
    height, width = picture.shape[:2]
    places = "; ".join(
        f"{number} at {','.join(f'{value:.2f}' for value in face.box / (width, height, width, height))}"
        for number, face in enumerate(faces, start=1)
    )
    if not faces:
        raise UserError(f"{path}: no face found; choose a picture in which one face is large and turned to the viewer")
    if choice.face is None and len(faces) > 1:
        raise SeveralFaces(
            f"{path}: shows {len(faces)} faces ({places}); say which one shall speak with --face N, or cut it out with "
            "--crop x0,y0,x1,y1",
            len(faces),
        )
    if choice.face is not None and not 1 <= choice.face <= len(faces):
        raise UserError(f"--face {choice.face}: {path} shows {len(faces)} ({places})")
    face = faces[(choice.face or 1) - 1]
    x0, y0, x1, y1 = face.box
    seen = max(min(x1, width) - max(x0, 0), 0) * max(min(y1, height) - max(y0, 0), 0) / ((x1 - x0) * (y1 - y0))
    if seen < SEEN:
        raise UserError(f"{path}: the picture's edge cuts off {1 - seen:.0%} of the face; choose one with a whole face")
    return face


def _region(
    region: str, box: np.ndarray, square: Square, shape: tuple[int, ...], part: tuple[slice, slice], size: int
) -> np.ndarray:
    if region == "auto":
        return region_mask(box, size, ROOM)
    if region == "all":
        return np.ones((1, size, size), np.float32)
    numbers = region.split(",")
    if len(numbers) == 4:
        return region_mask(_parse_box(region, numbers), size)
    mask = read_picture(Path(region), ground="black")
    if mask.shape != shape:
        raise UserError(
            f"{region}: the mask has {mask.shape[1]} x {mask.shape[0]} pixels, the portrait {shape[1]} x {shape[0]}; "
            "draw it on the portrait"
        )
    found = (crop(mask[part], square, size)[None, ..., 0] > 127).astype(np.float32)
    if not found.any():
        raise UserError(f"{region}: the mask lets the face be nowhere; draw in white where it may be")
    return found


def _parse_box(region: str, numbers: list[str]) -> np.ndarray:
    try:
        x0, y0, x1, y1 = map(float, numbers)
    except ValueError as error:
        raise UserError(f"--region {region}: these are not four numbers") from error
    _check_box(f"--region {region}", x0, y0, x1, y1)
    return np.array([x0, y0, x1, y1], np.float32)


def is_box(x0: float, y0: float, x1: float, y1: float) -> bool:
    """Whether these are the corners of a part of a picture, in 0-1."""
    return 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1


def _check_box(said: str, x0: float, y0: float, x1: float, y1: float) -> None:
    if not is_box(x0, y0, x1, y1):
        raise UserError(f"{said}: needs 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1")


def parse_speed(speed: str, frames: int, fps: float) -> np.ndarray:
    """Head speed of every frame, float32 (F,) in degrees per frame.

    speed: a number, a word of SPEEDS, or a CSV file of lines "seconds,speed", linear in between.
    """
    if Path(speed).suffix == ".csv":
        return _speed_curve(Path(speed), frames, fps)
    value = constant_speed(speed)
    if value is None:
        raise UserError(
            f"--speed {speed}: give degrees per frame (0 to 2), {', '.join(SPEEDS)}, or a .csv of seconds,speed"
        )
    if not 0 <= value <= FASTEST:
        raise UserError(f"--speed {speed}: must lie between 0 and {FASTEST} degrees per frame")
    return np.full(frames, value, np.float32)


def constant_speed(speed: str) -> float | None:
    """Degrees per frame of a number, which may be out of range, or of a word of SPEEDS; None of anything else."""
    if speed in SPEEDS:
        return SPEEDS[speed]
    try:
        return float(speed)
    except ValueError:
        return None


def _speed_curve(path: Path, frames: int, fps: float) -> np.ndarray:
    try:
        table = np.loadtxt(path, delimiter=",", ndmin=2)
    except FileNotFoundError as error:
        raise UserError(f"--speed {path}: no such file") from error
    except ValueError as error:
        raise UserError(f"--speed {path}: {error}; every line must be seconds,speed") from error
    if table.shape[1] != 2 or not len(table) or (np.diff(table[:, 0]) <= 0).any():
        raise UserError(f"--speed {path}: every line must be seconds,speed with rising seconds")
    if not np.isfinite(table).all():
        raise UserError(f"--speed {path}: every line must be seconds,speed in numbers")
    if not ((table[:, 1] >= 0) & (table[:, 1] <= FASTEST)).all():
        raise UserError(f"--speed {path}: speeds must lie between 0 and {FASTEST} degrees per frame")
    return np.interp(np.arange(frames) / fps, table[:, 0], table[:, 1]).astype(np.float32)
