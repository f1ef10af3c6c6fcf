"""MediaPipe's own calls with nothing around them, timed: what a bench holds its line against."""

import time
from collections.abc import Callable, Sequence

import numpy as np

from emo_data.features.faces import DETECT_EVERY, VIEW, native_noise_off


def seconds_of(work: Callable[[], object]) -> float:
    """By the clock on the wall."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def view_of(box: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns that the mesh sees of a face whose box is x0, y0, x1, y1 in pixels."""
    half = VIEW / 2 * float(box[3] - box[1])
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    rows, columns = (slice(max(int(middle - half), 0), int(middle + half) + 1) for middle in (y, x))
    return rows, columns


def seconds_of_faces(pictures: Sequence[np.ndarray], view: tuple[slice, slice]) -> dict[str, float]:
    """mesh: one call for the view of each picture; detector: one at every fifth whole picture. Start-up not counted.

    pictures: RGB uint8 (H, W, 3), at least one.
    """
    views = [np.ascontiguousarray(picture[view]) for picture in pictures]
    with native_noise_off():
        from mediapipe.python.solutions.face_detection import FaceDetection
        from mediapipe.python.solutions.face_mesh import FaceMesh

        with (
            FaceMesh(max_num_faces=1, refine_landmarks=True) as mesh,
            FaceDetection(model_selection=1) as detector,
        ):
            mesh.process(views[0])
            detector.process(pictures[0])
            return {
                "mesh": seconds_of(lambda: [mesh.process(view) for view in views]),
                "detector": seconds_of(lambda: [detector.process(picture) for picture in pictures[::DETECT_EVERY]]),
            }
