"""Where the faces are: MediaPipe's detectors and Face Mesh, for one portrait and along a video.

Pictures are RGB uint8 (H, W, 3). Boxes are x0, y0, x1, y1 and landmarks x, y, z in pixels of the picture; z grows away
from the viewer and has x's scale.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

DETECT_EVERY = 5
"""Frames from one look of the detector over the whole picture to the next; in between the mesh is alone."""
VIEW = 2.5
"""The mesh sees a square this many times as high as the face: in the whole picture it misses small ones."""
CONFIDENCE = 0.5

View = tuple[int, int, int, int]


@dataclass(frozen=True)
class Face:
    """One face: box float32 (4,) around the mesh, landmarks float32 (478, 3)."""

    box: np.ndarray
    landmarks: np.ndarray

    @property
    def height(self) -> float:
        return float(self.box[3] - self.box[1])


@dataclass(frozen=True)
class Sighting:
    """What one frame shows. `boxes` (N, 4) are all faces that the detector saw, None in frames it did not look at."""

    face: Face | None
    boxes: np.ndarray | None


def find_faces(picture: np.ndarray) -> list[Face]:
    """All faces of one still picture, the largest first."""
    with ExitStack() as stack:
        detectors = [stack.enter_context(_detector(full_range)) for full_range in (True, False)]
        mesh = stack.enter_context(_mesh(still=True))
        boxes = np.concatenate([_detect(detector, picture) for detector in detectors])
        views = [_view_around(box, picture) for box in boxes] or [_whole(picture)]
        found = [_mesh_in(mesh, picture, view) for view in views]
    faces: list[Face] = []
    for face in sorted((face for face in found if face), key=lambda face: -face.height):
        if all(overlap(face.box, other.box) < 0.3 for other in faces):
            faces.append(face)
    return faces


class FaceTracker:
    """Follows one face along a video, frame by frame; `restart` it at a shot cut, close it (or use `with`) at the end.

    The detector looks at the whole picture every fifth frame. The mesh tracks inside a view that stays where it is
    until the face comes near its edge, because a view that always moves would be noise to the tracking.
    """

    def __init__(self) -> None:
        self._detector = _detector(full_range=True)
        self._mesh = _mesh(still=False)
        self._view: View | None = None
        self._frame = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._detector.close()
        self._mesh.close()

    def restart(self) -> None:
        """Forget the face: the next frame belongs to another shot."""
        if self._view is not None:
            _reset(self._mesh)
        self._view = None
        self._frame = 0

    def track(self, picture: np.ndarray) -> Sighting:
        """The face of the next frame, the one that was followed so far or else the largest."""
        looks = self._frame % DETECT_EVERY == 0
        self._frame += 1
        boxes = _detect(self._detector, picture) if looks else None
        if self._view is None and boxes is not None:
            largest = max(boxes, key=lambda box: box[3] - box[1], default=None)
            self._view = _whole(picture) if largest is None else _view_around(largest, picture)
        if self._view is None:
            return Sighting(None, boxes)
        face = _mesh_in(self._mesh, picture, self._view)
        if face is None:  # the tracking slipped: a second call makes the mesh search its whole view
            face = _mesh_in(self._mesh, picture, self._view)
        if face is None:
            self._view = None
        elif _near_edge(face.box, self._view, picture):
            self._view = _view_around(face.box, picture)
            _reset(self._mesh)
        return Sighting(face, boxes)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    both = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
    return float(both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both))


def _whole(picture: np.ndarray) -> View:
    return 0, 0, picture.shape[1], picture.shape[0]


def _view_around(box: np.ndarray, picture: np.ndarray) -> View:
    """The part of a square around the box that lies in the picture."""
    half = VIEW / 2 * max(box[2] - box[0], box[3] - box[1])
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    left, top, right, bottom = _whole(picture)
    return (
        max(int(x - half), left),
        max(int(y - half), top),
        min(int(x + half) + 1, right),
        min(int(y + half) + 1, bottom),
    )


def _near_edge(box: np.ndarray, view: View, picture: np.ndarray) -> bool:
    """Whether the face comes within a fifth of its size of an edge of the view that is not one of the picture."""
    margin = 0.2 * max(box[2] - box[0], box[3] - box[1])
    left, top, right, bottom = _whole(picture)
    return bool(
        (view[0] > left and box[0] - view[0] < margin)
        or (view[1] > top and box[1] - view[1] < margin)
        or (view[2] < right and view[2] - box[2] < margin)
        or (view[3] < bottom and view[3] - box[3] < margin)
    )


def _detect(detector: Any, picture: np.ndarray) -> np.ndarray:
    """float32 (N, 4) in pixels."""
    height, width = picture.shape[:2]
    with native_noise_off():
        detections = detector.process(picture).detections or []
    boxes = [detection.location_data.relative_bounding_box for detection in detections]
    corners = [(box.xmin, box.ymin, box.xmin + box.width, box.ymin + box.height) for box in boxes]
    return np.array(corners, dtype=np.float32).reshape(-1, 4) * np.array([width, height] * 2, dtype=np.float32)


def _mesh_in(mesh: Any, picture: np.ndarray, view: View) -> Face | None:
    """The mesh's best face inside the view, in pixels of the whole picture."""
    x0, y0, x1, y1 = view
    with native_noise_off():
        faces = mesh.process(np.ascontiguousarray(picture[y0:y1, x0:x1])).multi_face_landmarks
    if not faces:
        return None
    points = np.array([(point.x, point.y, point.z) for point in faces[0].landmark], dtype=np.float32)
    points *= np.array([x1 - x0, y1 - y0, x1 - x0], dtype=np.float32)
    points += np.array([x0, y0, 0], dtype=np.float32)
    return Face(np.concatenate([points[:, :2].min(axis=0), points[:, :2].max(axis=0)]), points)


def _detector(full_range: bool) -> Any:
    with native_noise_off():
        from mediapipe.python.solutions.face_detection import FaceDetection

        return _opened(FaceDetection(model_selection=int(full_range), min_detection_confidence=CONFIDENCE))


def _mesh(still: bool) -> Any:
    with native_noise_off():
        from mediapipe.python.solutions.face_mesh import FaceMesh

        mesh = FaceMesh(
            static_image_mode=still,
            max_num_faces=1,
            refine_landmarks=True,
            min_detection_confidence=CONFIDENCE,
            min_tracking_confidence=CONFIDENCE,
        )
        return _opened(mesh)


def _reset(solution: Any) -> None:
    with native_noise_off():
        solution.reset()
        _opened(solution)


def _opened(solution: Any) -> Any:
    """Its native threads open (and warn) in the background: one blank picture waits for them."""
    solution.process(np.zeros((64, 64, 3), dtype=np.uint8))
    return solution


@contextmanager
def native_noise_off() -> Iterator[None]:
    """MediaPipe's C++ warns about its own models on file descriptor 2 and obeys no setting; errors still raise."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
