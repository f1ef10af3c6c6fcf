"""The sample's truth against MediaPipe, which measures the finished mp4 files without any code of the product."""

import json

import av
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from emo_data.errors import UserError
from emo_data.synthetic import synthesise_voice, write_sample
from emo_data.synthetic.head import Head
from emo_data.synthetic.look import LOOKS

SECONDS, FPS, RATE = 3, 25, 16_000
LIPS, FACE = (13, 14), (10, 152)
RIGID = [4, 6, 10, 33, 54, 67, 117, 119, 121, 127, 129, 132, 133, 143, 147, 198, 205]
RIGID += [263, 284, 297, 346, 348, 350, 356, 358, 361, 362, 372, 376, 420, 425]
"""Landmarks that speech hardly moves: nose, eyes, brow and cheeks."""


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic") / "sample"
    write_sample(folder, clips=6, seconds=SECONDS, seed=3)
    return folder


@pytest.fixture(scope="module")
def truth(sample):
    return json.loads((sample / "truth.json").read_text())


@pytest.fixture(scope="module")
def measured(sample, truth):
    """file -> landmarks (F, 468, 3) in picture widths."""
    return {name: face_mesh(pictures(sample / name)) for name in truth}


def pictures(file):
    with av.open(str(file)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def sound(file):
    """float (S,) on the picture's clock."""
    with av.open(str(file)) as container:
        blocks = list(container.decode(audio=0))
    late = round(float(blocks[0].time) * RATE)
    samples = np.concatenate([block.to_ndarray()[0] for block in blocks])
    return np.concatenate([np.zeros(max(0, late)), samples[max(0, -late) :]])


def face_mesh(frames):
    from mediapipe.python.solutions.face_mesh import FaceMesh

    landmarks = []
    with FaceMesh(static_image_mode=False, refine_landmarks=True, max_num_faces=1) as mesh:
        for frame in frames:
            faces = mesh.process(frame).multi_face_landmarks
            assert faces, "no face"
            landmarks.append([(point.x, point.y, point.z) for point in faces[0].landmark[:468]])
    return np.array(landmarks)


def head_rotation(landmarks):
    """(F, 3, 3), each relative to the first frame: Procrustes fit of the rigid landmarks."""
    points = landmarks[:, RIGID] - landmarks[:, RIGID].mean(1, keepdims=True)
    return np.stack([Rotation.align_vectors(face, points[0])[0].as_matrix() for face in points])


def rotation_speed(rotation):
    """(F - 5,) degrees per frame of a path of rotations smoothed over 5 frames."""
    smooth = np.stack([Rotation.from_matrix(rotation[i : i + 5]).mean().as_matrix() for i in range(len(rotation) - 4)])
    return np.degrees(Rotation.from_matrix(smooth[1:] @ smooth[:-1].transpose(0, 2, 1)).magnitude())


def as_matrices(angles):
    """(F, 3) yaw, pitch, roll to (F, 3, 3) in x right, y down, z away: roll after pitch after yaw."""
    return Rotation.from_euler("yxz", np.array(angles) * (-1, -1, 1), degrees=True).as_matrix()


def overlap(a, b):
    """(F,) intersection over union."""
    both = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None).prod(1)
    return both / ((a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - both)


def test_the_mouth_follows_the_clips_own_voice(sample, truth, measured):
    for name in truth:
        heard = sound(sample / name)[: SECONDS * RATE].reshape(-1, RATE // FPS)
        loudness = np.sqrt((heard**2).mean(1))
        lips, face = (np.linalg.norm(measured[name][:, a] - measured[name][:, b], axis=1) for a, b in (LIPS, FACE))
        opening = lips / face
        assert np.corrcoef(opening, loudness)[0, 1] >= 0.8, name
        assert np.corrcoef(opening, truth[name]["mouth_opening"])[0, 1] >= 0.8, name
        assert opening.min() < 0.02 and opening.max() > 0.08, name


def test_boxes_are_where_the_mesh_sees_the_face(truth, measured):
    for name, entry in truth.items():
        seen = np.concatenate([measured[name][..., :2].min(1), measured[name][..., :2].max(1)], 1)
        box = np.array(entry["box"])
        assert overlap(seen, box).min() >= 0.7, name
        assert 0.4 < np.median(box[:, 2] - box[:, 0]) < 0.6, name


def test_the_head_turns_as_a_solid(truth, measured):
    speeds = [
        (rotation_speed(as_matrices(entry["rotation"])), rotation_speed(head_rotation(measured[name])))
        for name, entry in truth.items()
    ]
    true, seen = (np.concatenate(side) for side in zip(*speeds, strict=True))
    assert np.corrcoef(true, seen)[0, 1] >= 0.9
    assert 0.8 <= np.polyfit(true, seen, 1)[0] <= 1.2


@pytest.mark.parametrize(
    "look", [LOOKS[0], next(look for look in LOOKS if look.mirror)], ids=["as photographed", "mirrored"]
)
def test_signs_of_the_angles(look):
    head = Head(look, 256)

    def landmarks(*angles):
        picture = head.render(np.array(angles, float), opening=0.0).picture
        return face_mesh([picture] * 2)[1]

    def nose(points, axis):
        return points[1, axis] - points[[234, 454, 10, 152], axis].mean()

    rest = landmarks(0, 0, 0)
    assert nose(landmarks(15, 0, 0), 0) > nose(rest, 0) + 0.02  # to the picture's right
    assert nose(landmarks(0, 8, 0), 1) < nose(rest, 1) - 0.01  # up
    left, right = landmarks(0, 0, 8)[[33, 263]]
    assert right[1] > left[1] + 0.02  # clockwise


def test_a_ray_along_the_surface_is_not_divided_by():
    """Where depth rises as fast as the ray goes, it comes no nearer from step to step."""
    u, v = np.meshgrid(*[np.arange(10, dtype=np.float32)] * 2)
    with np.errstate(all="raise"):
        found = Head._first_surface(u.copy(), u, v, du=-1.0, dv=0.0)
    assert np.isfinite(found).all()


def test_calm_and_lively_clips_and_rests(truth):
    speeds = [rotation_speed(as_matrices(entry["rotation"])) for entry in truth.values()]
    means = [speed.mean() for speed in speeds]
    assert min(means) < 0.5 and max(means) > 0.9
    assert all(speed.min() < 0.05 for speed in speeds)


def test_held_out_voices_and_motions_are_new(sample, truth):
    seeds = {part: {tuple(e["seed"]) for n, e in truth.items() if n.startswith(part)} for part in ("clips", "held_out")}
    assert len(seeds["clips"]) == 6 and len(seeds["held_out"]) == 2
    assert not seeds["clips"] & seeds["held_out"]
    assert {e["identity"] for n, e in truth.items() if n.startswith("held_out")} <= {look.name for look in LOOKS}
    assert {str(file.relative_to(sample)) for file in sample.rglob("*.mp4")} == set(truth)


def test_the_voice_has_pauses_and_syllables():
    voices = [synthesise_voice(seed, 6) for seed in (1, 2, 2)]
    assert voices[0].dtype == np.float32 and voices[0].shape == (6 * RATE,)
    np.testing.assert_array_equal(voices[1], voices[2])
    for voice in voices[:2]:
        loudness = np.sqrt((voice.reshape(-1, RATE // FPS) ** 2).mean(1))
        assert np.abs(voice).max() <= 1
        assert (loudness < 0.01).mean() > 0.05 and loudness.max() > 0.1
    assert abs(np.corrcoef(voices[0], voices[1])[0, 1]) < 0.1


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_sample(tmp_path / name, clips=1, seconds=1, seed=seed, size=128)
    files = sorted(file.relative_to(tmp_path / "a") for file in (tmp_path / "a").rglob("*") if file.is_file())
    assert len(files) == 7
    for file in files:
        same = (tmp_path / "b" / file).read_bytes()
        if file.suffix == ".mp4":
            np.testing.assert_array_equal(pictures(tmp_path / "a" / file), pictures(tmp_path / "b" / file))
        else:
            assert (tmp_path / "a" / file).read_bytes() == same
    assert (tmp_path / "a" / "truth.json").read_bytes() != (tmp_path / "c" / "truth.json").read_bytes()


def test_a_finished_sample_is_kept_and_another_replaces_it(tmp_path):
    folder, done = tmp_path / "sample", []
    write_sample(folder, clips=1, seconds=1, seed=0, size=64, on_progress=lambda *counts: done.append(counts))
    assert done == [(1, 3), (2, 3), (3, 3)]
    written = (folder / "truth.json").stat().st_mtime_ns
    write_sample(folder, clips=1, seconds=1, seed=0, size=64)
    assert (folder / "truth.json").stat().st_mtime_ns == written
    write_sample(folder, clips=2, seconds=1, seed=0, size=64)
    assert len(list((folder / "clips").iterdir())) == 2
    assert list(tmp_path.iterdir()) == [folder]


def test_an_interrupted_run_leaves_nothing(tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_sample(tmp_path / "sample", clips=2, seconds=1, seed=0, size=64, on_progress=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("holding", ["thesis.txt", "truth.json", "sample.json"])
def test_a_folder_with_something_else_is_refused(tmp_path, holding):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / holding).write_text("[]")
    with pytest.raises(UserError, match="mine"):
        write_sample(folder, clips=1, seconds=1, seed=0)
    assert [file.name for file in folder.iterdir()] == [holding]
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("wrong", [{"clips": 0}, {"seconds": 0.1}, {"seed": -1}, {"size": 255}])
def test_impossible_parameters_are_refused(tmp_path, wrong):
    with pytest.raises(UserError):
        write_sample(tmp_path / "sample", **{"clips": 1, "seconds": 1.0, "seed": 0, **wrong})
    assert list(tmp_path.iterdir()) == []
