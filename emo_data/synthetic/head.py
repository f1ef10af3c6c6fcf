"""Renders one look: the mouth opens in the flat neutral picture, then the picture is turned as a solid with depth.

Legend: N pixels per side. u, v: neutral head coordinates; s, n: along and across the mouth, in pixels.
"""

from typing import NamedTuple

import cv2
import numpy as np

from emo_data.synthetic.look import Look, lay_out
from emo_data.synthetic.motion import rotation_matrices
from emo_data.synthetic.portrait import LOWER_LIP, UPPER_LIP

_JAW_SHARE = 0.3
"""How far the chin follows the lower lip."""
_LIFT, _LIFT_FALL = 0.2, 2.0
"""The upper lip rises by _LIFT of a small opening, less and less of a wide one, where the jaw draws the lips down.
Both were chosen so that Face Mesh does not take an opening mouth for a head that tips back."""
_MARCH = 12
"""Steps of the ray through the depth of the head."""


class View(NamedTuple):
    """One frame."""

    picture: np.ndarray  # uint8 (N, N, 3), RGB
    box: np.ndarray  # float64 (4,), x0 y0 x1 y1 in 0-1: around all vertices of the face mesh
    mouth_opening: float  # distance of the lips at the middle over face height (10-152), in the solid


class Head:
    """A look that can turn and speak. Holds the layers; `render` keeps no state."""

    def __init__(self, look: Look, size: int) -> None:
        self._mirror = look.mirror
        self._size = size
        self._layers = lay_out(look, size)
        points = self._layers.landmarks
        corners = points[[78, 308], :2].astype(np.float64)
        along = (corners[1] - corners[0]) / np.linalg.norm(corners[1] - corners[0])
        self._axes = np.array([along, [-along[1], along[0]]])
        self._middle = corners.mean(0)
        self._half = np.linalg.norm(corners[1] - corners[0]) / 2
        self.face_height = float(np.linalg.norm(points[152] - points[10]))
        self._unit = self.face_height / 107  # pixel of the photograph
        upper, lower = (self._to_mouth(points[list(lip), :2]) for lip in (UPPER_LIP, LOWER_LIP))
        self._upper, self._lower = upper, lower
        self._rows, self._columns = self._mouth_patch()
        u, v = np.meshgrid(np.arange(size)[self._columns], np.arange(size)[self._rows])
        local = self._to_mouth(np.stack([u, v], -1)).astype(np.float32)
        self._patch = np.ascontiguousarray(local[..., 0]), np.ascontiguousarray(local[..., 1])
        coarse, full = np.arange(0, size, 2, dtype=np.float32), np.arange(size, dtype=np.float32)
        self._grid = np.meshgrid(coarse - np.float32(self._layers.pivot[0]), coarse - np.float32(self._layers.pivot[1]))
        self._refine = np.meshgrid(full / 2, full / 2)

    def render(self, angles: np.ndarray, opening: float, rounding: float = 0.0) -> View:
        """angles: (3,) yaw, pitch, roll in degrees. opening: inner lip distance over the face height at rest.
        rounding: -1 (spread lips) to 1 (rounded)."""
        yaw, pitch, roll = angles
        if self._mirror:
            yaw, roll = -yaw, -roll
        rotation = rotation_matrices(np.array([[yaw, pitch, roll]]))[0] @ self._layers.rotation.T
        head, depth = self._speak(opening * self.face_height, rounding)
        picture = self._turn(head, depth, rotation)
        solid = self._moved_landmarks(opening * self.face_height, rounding)
        turned = (solid - self._layers.pivot) @ rotation.T + self._layers.pivot
        low, high = turned[:, :2].min(0) / self._size, turned[:, :2].max(0) / self._size
        if self._mirror:
            picture = np.ascontiguousarray(picture[:, ::-1])
            low[0], high[0] = 1 - high[0], 1 - low[0]
        gap = opening * self.face_height / np.linalg.norm(solid[152] - solid[10])
        return View(picture, np.concatenate([low, high]), float(gap))

    def _to_mouth(self, points: np.ndarray) -> np.ndarray:
        return (points - self._middle) @ self._axes.T

    def _mouth_patch(self) -> tuple[slice, slice]:
        """Rows and columns that speech may change: nose to below the lowest chin, cheek to cheek."""
        reach = 52 * self._unit
        top, bottom = self._middle[1] - 14 * self._unit, self._middle[1] + 68 * self._unit
        clip = np.clip(np.array([top, bottom, self._middle[0] - reach, self._middle[0] + reach]), 0, self._size)
        rows, columns = clip.round().astype(int).reshape(2, 2) // 2 * 2
        return slice(*rows), slice(*columns)

    def _warp(self, s: np.ndarray, n: np.ndarray, opening: float, rounding: float) -> tuple[np.ndarray, ...]:
        """Where a point (s, n) of the speaking face lies in the photographed one, and how deep it is in the mouth.

        Returns s and n of the photograph and the distances below the upper and above the lower lip (pixels).
        """
        unit, half = self._unit, self._half
        squeeze = 1 + 0.16 * rounding * np.exp(-((s / (1.6 * half)) ** 2) - (n / (16 * unit)) ** 2)
        s = s * squeeze
        upper = np.interp(s, *self._upper.T)
        lower = np.interp(s, *self._lower.T)
        inside = np.clip(1 - (s / half) ** 2, 0, 1)
        shape = inside**0.6
        closed = upper + 0.35 * (lower - upper)  # where smiling lips meet
        lift = opening * (_LIFT - _LIFT_FALL * opening / self.face_height)
        top = closed - lift * shape
        bottom = closed + (opening - lift) * shape
        near_up = _fade((top - n) / (11 * unit))
        near_down = _fade((n - bottom) / (18 * unit + 0.3 * opening))
        jaw = _JAW_SHARE * opening * np.exp(-((s / (2.3 * half)) ** 2)) * (1 - near_down)
        above = n - (top - upper + 0.8 * unit * inside) * near_up
        below = n - (bottom - lower - 0.8 * unit * inside) * near_down - jaw
        lifted = np.where(n < (top + bottom) / 2, above, below)
        return s, lifted, n - top, bottom - n

    def _speak(self, opening: float, rounding: float) -> tuple[np.ndarray, np.ndarray]:
        """uint8 (N, N, 4) head and float32 (N, N) depth with the mouth open by `opening` pixels."""
        part = self._rows, self._columns
        s, n, under, over = self._warp(*self._patch, opening, rounding)
        x, y = (a[0] * s + a[1] * n + m for a, m in zip(self._axes.T, self._middle, strict=True))
        source = x.astype(np.float32), y.astype(np.float32)
        head, depth = self._layers.head.copy(), self._layers.depth.copy()
        depth[part] = cv2.remap(self._layers.depth, *source, cv2.INTER_LINEAR)
        patch = cv2.remap(self._layers.head, *source, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        hole = np.clip(np.minimum(under, over) + 0.5, 0, 1) * np.clip(3 * (1.02 - np.abs(s) / self._half), 0, 1)
        patch[..., :3] = _blend(patch[..., :3], self._cavity(s, under, over), hole)
        head[part] = patch
        return head, depth

    def _cavity(self, s: np.ndarray, under: np.ndarray, over: np.ndarray) -> np.ndarray:
        """Colour inside the mouth: dark, a rim of upper teeth, a tongue below."""
        unit = self._unit
        dark = np.full((*s.shape, 3), (46, 14, 16), np.float32)
        tongue = _fade(over / (10 * unit)) * _fade(np.abs(s) / (0.9 * self._half))
        dark += tongue[..., None] * np.array((117, 52, 55), np.float32)
        teeth = _fade((under - 3 * unit) / (1.5 * unit)) * _fade((np.abs(s) / self._half - 0.45) / 0.3)
        teeth = teeth * np.clip((under + over) / (8 * unit) - 0.5, 0, 1)
        return dark + teeth[..., None] * (np.array((200, 190, 178), np.float32) - dark)

    def _moved_landmarks(self, opening: float, rounding: float) -> np.ndarray:
        """float64 (468, 3): the mesh's vertices where speech takes them, by inverting the warp."""
        points = self._layers.landmarks.astype(np.float64)
        home = self._to_mouth(points[:, :2])
        here = home.copy()
        here[:, 1] += np.where(here[:, 1] > self._lower[5, 1] - 2 * self._unit, opening, 0)
        for _ in range(8):
            s, n, *_ = self._warp(here[:, 0], here[:, 1], opening, rounding)
            here += 0.8 * (home - np.stack([s, n], -1))
        points[:, :2] = here @ self._axes + self._middle
        return points

    def _turn(self, head: np.ndarray, depth: np.ndarray, rotation: np.ndarray) -> np.ndarray:
        """uint8 (N, N, 3): each pixel shows the first surface that its ray meets in the turned head.

        A pixel p sees the points (u, v, z) with p = A (u, v) + b z, A and b from `rotation`: marching along z from the
        nose backwards, (u, v) moves by -A^-1 b per unit of z (relief mapping, Policarpo et al. 2005).
        """
        pivot = self._layers.pivot.astype(np.float32)
        inverse = np.linalg.inv(rotation[:2, :2]).astype(np.float32)
        du, dv = inverse @ rotation[:2, 2].astype(np.float32)
        x, y = self._grid
        u = inverse[0, 0] * x + inverse[0, 1] * y + (pivot[0] + du * pivot[2])
        v = inverse[1, 0] * x + inverse[1, 1] * y + (pivot[1] + dv * pivot[2])
        z = self._first_surface(depth, u, v, du, dv)
        u, v = (
            cv2.remap(a, *self._refine, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            for a in (u - du * z, v - dv * z)
        )
        turned = cv2.remap(head, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        alpha = turned[..., 3].astype(np.float32) * np.float32(1 / 255)
        return cv2.blendLinear(cv2.cvtColor(turned, cv2.COLOR_RGBA2RGB), self._layers.plate, alpha, 1 - alpha)

    @staticmethod
    def _first_surface(depth: np.ndarray, u: np.ndarray, v: np.ndarray, du: float, dv: float) -> np.ndarray:
        """float32 like u: the least z at which the point (u - du z, v - dv z) is no longer in front of `depth`."""
        levels = np.linspace(depth.min() - 1, depth.max() + 1, _MARCH, dtype=np.float32)
        first = np.full_like(u, levels[-1])
        open_ray = np.ones(u.shape, bool)
        before = None
        for level in levels:
            point = u - du * level, v - dv * level
            gap = cv2.remap(depth, *point, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) - level
            hit = open_ray & (gap <= 0)
            if before is not None:
                first[hit] = level - (levels[1] - levels[0]) * gap[hit] / (gap[hit] - before[hit])
            open_ray &= ~hit
            before = gap
        return first


def _fade(x: np.ndarray) -> np.ndarray:
    """1 up to zero, falling smoothly to 0 at one."""
    x = np.clip(x, 0, 1)
    return 1 - x * x * (3 - 2 * x)


def _blend(under: np.ndarray, over: np.ndarray, share: np.ndarray) -> np.ndarray:
    return (under + (over - under) * share[..., None]).clip(0, 255).astype(np.uint8)
