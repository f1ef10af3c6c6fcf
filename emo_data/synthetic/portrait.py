"""The astronaut's photograph (NASA, public domain, in scikit-image's wheel) taken apart: head, body, depth, landmarks.

All lengths here are pixels of the 512x512 photograph: x right, y down, z away from the viewer.
"""

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from scipy.interpolate import LinearNDInterpolator
from scipy.ndimage import distance_transform_edt

from emo_data.errors import UserError
from emo_data.features.faces import native_noise_off

UPPER_LIP = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
LOWER_LIP = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)
_JAW = (93, 132, 58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288, 361, 323)
_PAIRS = ((33, 263), (61, 291), (127, 356), (234, 454))
_EYES = (
    (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7),
    (362, 398, 384, 385, 386, 387, 388, 466, 263, 249, 390, 373, 374, 380, 381, 382),
)
_FRINGE = ((183, 84), (192, 82), (204, 82), (226, 84), (245, 88), (262, 92))
"""Where the hair ends on the forehead, seen in this one photograph; ears and collar below likewise."""
_EARS = (((176, 124), (8, 12)), ((273, 131), (10, 10)))
_EAR_LOBES_Y = 145
_SILHOUETTE_DEPTH = 52.0
_DEPTH_SCALE, _ROUNDNESS = 0.95, 13.0
"""Face Mesh's z for this photograph is too flat across: turned as it stands, a yaw of 10 degrees measures as 7.7.
So z is scaled, and grows by `_ROUNDNESS` towards the edges of the face; then yaw, pitch and roll measure alike."""
PIVOT = np.array([224.0, 158.0, 60.0])
"""The joint of head and neck, between the ears and behind them."""


class Portrait(NamedTuple):
    """Legend: H W of the photograph. Masks are float32 (H, W) in 0-1."""

    picture: np.ndarray  # uint8 (H, W, 3), RGB
    head: np.ndarray  # mask: hair, face and ears, down to the jaw
    head_colour: np.ndarray  # uint8 (H, W, 3): the head, its edge colours carried outwards
    body: np.ndarray  # mask: neck and collar, also where the head hides them
    body_colour: np.ndarray  # uint8 (H, W, 3)
    skin: np.ndarray  # mask: face, ears and neck
    eyes: np.ndarray  # mask
    lips: np.ndarray  # mask
    depth: np.ndarray  # float32 (H, W)
    landmarks: np.ndarray  # float32 (468, 3): MediaPipe Face Mesh
    rotation: np.ndarray  # float64 (3, 3): how the photographed head is turned


@lru_cache(maxsize=1)
def astronaut() -> Portrait:
    """The photograph and its parts, found once per process. UserError where Face Mesh does not see the face."""
    from skimage import data

    picture = data.astronaut()
    landmarks = _rounded(_face_mesh(picture))
    head, body = _cut_out(picture, landmarks)
    body_colour, body, neck = _complete_neck(picture, head, body, landmarks)
    skin = _blur(np.maximum(_skin(landmarks, picture.shape[:2]), neck), 1.2)
    return Portrait(
        picture=picture,
        head=_blur(_erode(head), 0.8),
        head_colour=_spread(picture, _erode(head, 3)),
        body=_blur(_erode(body), 0.8),
        body_colour=body_colour,
        skin=skin,
        eyes=_blur(_eyes(landmarks, picture.shape[:2]), 0.7),
        lips=_blur(_lips(landmarks, picture.shape[:2]), 0.7),
        depth=_depth(head, landmarks),
        landmarks=landmarks,
        rotation=head_axes(landmarks),
    )


def _face_mesh(picture: np.ndarray) -> np.ndarray:
    """(468, 3) landmarks in pixels, z in the same unit."""
    height, width = picture.shape[:2]
    with native_noise_off():
        from mediapipe.python.solutions.face_mesh import FaceMesh

        with FaceMesh(static_image_mode=True, refine_landmarks=True, max_num_faces=1) as mesh:
            faces = mesh.process(picture).multi_face_landmarks
    if not faces:
        raise UserError("scikit-image's astronaut shows no face to MediaPipe: reinstall mediapipe 0.10.21")
    points = [(p.x * width, p.y * height, p.z * width) for p in faces[0].landmark[:468]]
    return np.array(points, np.float32)


def _rounded(landmarks: np.ndarray) -> np.ndarray:
    across = np.clip((landmarks[:, 0] - PIVOT[0]) / 46, -1.3, 1.3)
    depth = _DEPTH_SCALE * landmarks[:, 2] + _ROUNDNESS * across**2
    return np.column_stack([landmarks[:, :2], depth]).astype(np.float32)


def head_axes(landmarks: np.ndarray) -> np.ndarray:
    """(3, 3) whose columns are the head's right, down and backward directions in the picture.

    Pairs of points left and right span the first axis, forehead to chin the second, as in a canonical face.
    """
    across = np.sum([landmarks[b] - landmarks[a] for a, b in _PAIRS], 0).astype(np.float64)
    across /= np.linalg.norm(across)
    down = (landmarks[152] - landmarks[10]).astype(np.float64)
    down -= across * (down @ across)
    down /= np.linalg.norm(down)
    return np.stack([across, down, np.cross(across, down)], 1)


def _cut_out(picture: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 (H, W) masks of head and body, both 0 or 1: the figure by GrabCut, parted at the jaw."""
    left, top, right, bottom = 110, 0, 340, 220  # the sitter without flag and shuttle
    window = np.ascontiguousarray(picture[top:bottom, left:right])
    seed = np.full(window.shape[:2], cv2.GC_PR_BGD, np.uint8)
    cv2.ellipse(seed, (116, 85), (76, 80), 0, 0, 360, cv2.GC_PR_FGD, -1)
    cv2.ellipse(seed, (116, 85), (55, 62), 0, 0, 360, cv2.GC_FGD, -1)
    seed[:5] = seed[:_EAR_LOBES_Y, :36] = seed[:_EAR_LOBES_Y, 200:] = cv2.GC_BGD
    seed[150:] = cv2.GC_PR_FGD
    seed[_EAR_LOBES_Y:160, 160:] = cv2.GC_BGD
    cv2.setRNGSeed(0)  # GrabCut starts from k-means
    cv2.grabCut(window, seed, None, np.zeros((1, 65)), np.zeros((1, 65)), 4, cv2.GC_INIT_WITH_MASK)
    figure = np.zeros(picture.shape[:2], np.float32)
    figure[top:bottom, left:right] = (seed == cv2.GC_FGD) | (seed == cv2.GC_PR_FGD)
    figure[bottom:] = 1
    jaw = landmarks[list(_JAW), :2]
    columns, rows = np.arange(picture.shape[1]), np.arange(picture.shape[0])[:, None]
    edge = np.interp(columns, jaw[:, 0], jaw[:, 1], left=_EAR_LOBES_Y, right=_EAR_LOBES_Y)
    above = rows <= np.maximum(edge, np.where((columns > 195) & (columns < 255), 0, _EAR_LOBES_Y - 8))
    figure[_EAR_LOBES_Y:172, 255:] *= above[_EAR_LOBES_Y:172, 255:]  # a sliver of the background beside the neck
    return figure * above, figure * ~above


def _complete_neck(
    picture: np.ndarray, head: np.ndarray, body: np.ndarray, landmarks: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Body colours and mask with the neck carried up behind the head, and the mask of the neck's skin."""
    neck = np.zeros_like(head)
    outline = [(186, 150), (186, 176), (192, 181), (206, 186), (230, 189), (243, 190), (254, 184), (256, 160)]
    cv2.fillPoly(neck, [np.array([(187, 110), *outline, (254, 110)], np.int32)], 1.0)
    seen = body * (1 - cv2.dilate(head, np.ones((5, 5))))
    colour = _spread(picture, seen * neck)
    shade = np.clip(1 - 0.35 * cv2.GaussianBlur(head, (0, 0), 6), 0.6, 1)[..., None]
    colour = np.where((neck * (1 - seen) > 0)[..., None], cv2.GaussianBlur(colour, (0, 0), 2.5) * shade, picture)
    return colour.astype(np.uint8), np.maximum(body, neck), neck


def _skin(landmarks: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """float32 (H, W): face below the fringe, and ears."""
    mask = np.zeros(shape, np.float32)
    sides = landmarks[[127, 234, *_JAW, 454, 356], :2]
    face = np.concatenate([sides, np.array(_FRINGE[::-1])]).round().astype(np.int32)
    cv2.fillPoly(mask, [face], 1.0)
    for centre, axes in _EARS:
        cv2.ellipse(mask, centre, axes, 0, 0, 360, 1.0, -1)
    return mask


def _eyes(landmarks: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """float32 (H, W): both openings between the lids."""
    mask = np.zeros(shape, np.float32)
    for eye in _EYES:
        cv2.fillPoly(mask, [landmarks[list(eye), :2].round().astype(np.int32)], 1.0)
    return mask


def _lips(landmarks: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """float32 (H, W): between the outer and the inner outline of the lips."""
    outer = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146)
    mask = np.zeros(shape, np.float32)
    cv2.fillPoly(mask, [landmarks[list(outer), :2].round().astype(np.int32)], 1.0)
    inner = landmarks[[*UPPER_LIP, *LOWER_LIP[-2:0:-1]], :2]
    cv2.fillPoly(mask, [inner.round().astype(np.int32)], 0.0)
    return mask


def _depth(head: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """float32 (H, W): Face Mesh's own z in the face, rising smoothly to the ears' depth at the head's outline."""
    outline, _ = cv2.findContours(head.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    rim = max(outline, key=len)[::6, 0].astype(np.float32)
    oval = cv2.convexHull(np.ascontiguousarray(landmarks[:, :2]))
    rim = rim[[cv2.pointPolygonTest(oval, (float(x), float(y)), True) < -6 for x, y in rim]]
    height, width = head.shape
    frame = np.array([(x, y) for x in (0, width - 1) for y in (0, height - 1)], np.float32)
    points = np.concatenate([landmarks[:, :2], rim, frame])
    values = np.concatenate([landmarks[:, 2], np.full(len(rim) + len(frame), _SILHOUETTE_DEPTH)])
    depth = LinearNDInterpolator(points, values)(*np.meshgrid(np.arange(width), np.arange(height)))
    return _blur(depth.astype(np.float32), 2.0)


def _blur(mask: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(mask, (0, 0), sigma)


def _erode(mask: np.ndarray, size: int = 2) -> np.ndarray:
    return cv2.erode(mask, np.ones((size, size)))


def _spread(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3): every pixel outside `mask` takes the colour of the nearest one inside."""
    rows, columns = distance_transform_edt(mask < 0.5, return_distances=False, return_indices=True)
    return picture[rows, columns]
