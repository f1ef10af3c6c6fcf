"""Identities: the same photograph with another face shape, skin, hair, garment and wall, laid out on a square picture.

Legend: N pixels per side of the square picture. Lengths are pixels of that picture.
"""

from typing import NamedTuple

import cv2
import numpy as np

from emo_data.synthetic.portrait import PIVOT, Portrait, astronaut, head_axes

_VIEW = 204.0
"""Side of the square cut from the photograph, in its pixels: the face is then 45 % as wide as the picture."""
_CENTRE = np.array([225.0, 104.0])
_FACE_MIDDLE_X = 224.0
_JAW_SPAN = (100.0, 178.0)
"""Rows of the photograph between which a jaw grows wider: eyes to chin."""
_DRAWN = 1604
"""Seed of the identities that are drawn."""


class Tint(NamedTuple):
    """CIELAB: lightness is multiplied, both colour axes are scaled by `chroma` and then shifted."""

    lightness: float = 1.0
    chroma: float = 1.0
    red: float = 0.0
    yellow: float = 0.0


class Look(NamedTuple):
    """One identity."""

    name: str
    width: float = 1.0  # of the head, against the photograph's
    height: float = 1.0
    jaw: float = 0.0  # how much wider (or narrower) the chin is, as a share
    mirror: bool = False
    skin: Tint = Tint()
    hair: Tint = Tint()
    garment: Tint = Tint()
    wall: tuple[int, int, int] = (150, 150, 160)  # RGB


LOOKS = (
    Look("look0", wall=(122, 140, 158)),
    Look(
        "look1",
        width=0.95,
        height=1.03,
        jaw=-0.08,
        skin=Tint(1.03, 0.9, 3, -3),
        hair=Tint(0.85, 1.1, 20, 10),
        garment=Tint(1, 1, -25, 15),
        wall=(88, 122, 104),
    ),
    Look(
        "look2",
        width=1.05,
        height=0.97,
        jaw=0.10,
        mirror=True,
        skin=Tint(0.72, 1.2, 3, 3),
        hair=Tint(0.42, 0.5),
        garment=Tint(1.1, 1, 0, 30),
        wall=(196, 176, 140),
    ),
    Look(
        "look3",
        width=1.08,
        jaw=0.04,
        mirror=True,
        skin=Tint(0.88, 1.1, 3, 3),
        hair=Tint(0.6, 0.9, 5, 0),
        garment=Tint(0.8, 1, 30, 10),
        wall=(208, 206, 200),
    ),
    Look(
        "look4",
        width=0.97,
        height=0.98,
        jaw=0.12,
        skin=Tint(0.93, 1.05, 5, 1),
        hair=Tint(1.15, 0.2),
        garment=Tint(1, 1, 10, -40),
        wall=(104, 84, 96),
    ),
    Look(
        "look5",
        width=1.02,
        height=1.05,
        jaw=-0.05,
        mirror=True,
        skin=Tint(0.6, 1.15, 5, 3),
        hair=Tint(0.34, 0.3),
        garment=Tint(1.2, 0.5, 0, -15),
        wall=(116, 158, 168),
    ),
)


def looks_of(count: int) -> list[Look]:
    """The first `count` identities: those of LOOKS, then ones drawn by their number, the same every time."""
    return [LOOKS[number] if number < len(LOOKS) else _drawn(number) for number in range(count)]


def _drawn(number: int) -> Look:
    rng = np.random.default_rng([_DRAWN, number])
    return Look(
        f"look{number}",
        width=rng.uniform(0.94, 1.09),
        height=rng.uniform(0.96, 1.05),
        jaw=rng.uniform(-0.09, 0.13),
        mirror=bool(rng.integers(2)),
        skin=Tint(rng.uniform(0.58, 1.06), rng.uniform(0.85, 1.2), rng.uniform(0, 6), rng.uniform(-4, 4)),
        hair=Tint(rng.uniform(0.34, 1.2), rng.uniform(0.2, 1.1), rng.uniform(-2, 20), rng.uniform(-5, 12)),
        garment=Tint(rng.uniform(0.7, 1.2), rng.uniform(0.5, 1.0), rng.uniform(-30, 30), rng.uniform(-40, 40)),
        wall=tuple((rng.integers(110, 190) + rng.integers(-30, 31, 3)).tolist()),
    )


class Layers(NamedTuple):
    """A look laid out on the picture, its head unturned and its mouth as photographed."""

    plate: np.ndarray  # uint8 (N, N, 3), RGB: wall, neck and collar, complete behind the head
    head: np.ndarray  # uint8 (N, N, 4), RGBA, colour not multiplied by alpha
    depth: np.ndarray  # float32 (N, N)
    landmarks: np.ndarray  # float32 (468, 3)
    rotation: np.ndarray  # float64 (3, 3): how the photographed head is turned
    pivot: np.ndarray  # float64 (3,)


def lay_out(look: Look, size: int) -> Layers:
    """The photograph's parts in this look's shape and colours; `look.mirror` is left to the renderer."""
    portrait = astronaut()
    scale = np.array([look.width, look.height]) * size / _VIEW
    deep = float(np.sqrt(scale.prod()))
    columns, rows = np.meshgrid(np.arange(size), np.arange(size))
    y = (rows - size / 2) / scale[1] + _CENTRE[1]
    x_body = (columns - size / 2) / scale[0] + _CENTRE[0]
    x_head = _FACE_MIDDLE_X + (x_body - _FACE_MIDDLE_X) / _widening(look.jaw, y)

    def sample(layer: np.ndarray, x: np.ndarray) -> np.ndarray:
        coordinates = x.astype(np.float32), y.astype(np.float32)
        return cv2.remap(layer, *coordinates, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)

    landmarks = portrait.landmarks.astype(np.float64)
    landmarks[:, 0] = _FACE_MIDDLE_X + (landmarks[:, 0] - _FACE_MIDDLE_X) * _widening(look.jaw, landmarks[:, 1])
    points = np.concatenate([landmarks, PIVOT[None]])
    points[:, :2] = (points[:, :2] - _CENTRE) * scale + size / 2
    points[:, 2] *= deep
    head_colour, body_colour = _dress(portrait, look)
    body = np.clip(sample(portrait.body, x_body), 0, 1)[..., None]
    plate = sample(body_colour, x_body) * body + _wall(look.wall, size) * (1 - body)
    alpha = np.clip(sample(portrait.head, x_head) * 255, 0, 255).astype(np.uint8)
    return Layers(
        plate=np.clip(plate, 0, 255).astype(np.uint8),
        head=np.dstack([sample(head_colour, x_head), alpha]),
        depth=sample(portrait.depth, x_head) * np.float32(deep),
        landmarks=points[:-1].astype(np.float32),
        rotation=head_axes(points[:-1]),
        pivot=points[-1],
    )


def _widening(jaw: float, y: np.ndarray) -> np.ndarray:
    ramp = np.clip((y - _JAW_SPAN[0]) / (_JAW_SPAN[1] - _JAW_SPAN[0]), 0, 1)
    return 1 + jaw * ramp * ramp * (3 - 2 * ramp)


def _dress(portrait: Portrait, look: Look) -> tuple[np.ndarray, np.ndarray]:
    """uint8 RGB colours of head and body of the whole photograph in this look's tints."""
    skin = portrait.skin[..., None]
    rosy = _tinted(portrait.head_colour, Tint(0.82, 1.3, 12, 2))  # lips the mesh can see at 64 pixels
    head = portrait.head_colour + (rosy - portrait.head_colour.astype(np.float32)) * portrait.lips[..., None]
    head = head.clip(0, 255).astype(np.uint8)
    eyes = portrait.eyes[..., None]
    covered = _tinted(head, look.skin) * skin + _tinted(head, look.hair) * (1 - skin)
    covered = head * eyes + covered * (1 - eyes)
    body = _tinted(portrait.body_colour, look.skin) * skin + _tinted(portrait.body_colour, look.garment) * (1 - skin)
    return covered.astype(np.uint8), body.astype(np.uint8)


def _tinted(picture: np.ndarray, tint: Tint) -> np.ndarray:
    """float32 RGB 0-255."""
    lab = cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    lab[..., 0] *= tint.lightness
    lit = np.clip((lab[..., :1] - 10) / 30, 0, 1)  # black stays black
    lab[..., 1:] = lab[..., 1:] * tint.chroma + lit * np.array([tint.red, tint.yellow], np.float32)
    return np.clip(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), 0, 1) * 255


def _wall(colour: tuple[int, int, int], size: int) -> np.ndarray:
    """float32 (N, N, 3): a lit wall, brighter behind the head's left, darker to the edges."""
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    light = 1.12 - 0.9 * ((x + 0.12) ** 2 + (y + 0.1) ** 2)
    return light[..., None] * np.array(colour, np.float32)
