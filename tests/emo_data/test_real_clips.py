"""What real clips give. They are judged by eye: which have one usable face, which have sound."""

from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from emo_data.features.faces import find_faces, overlap
from emo_data.features.framing import boxes_in_square, frame_face
from emo_data.ingest.config import IngestConfig
from emo_data.ingest.run import ingest
from emo_data.schema import CLIP_SCHEMA
from emo_data.store import Dataset
from emo_data.video import decode_clip

CONFIG = IngestConfig(size=64, audio_model="tiny", test_share=0)


@pytest.fixture(scope="module")
def result(real_data, tmp_path_factory):
    """(clips, rejections): first three letters of the file's name -> rows."""
    out = str(tmp_path_factory.mktemp("real") / "data")
    summary = ingest([str(real_data / "video"), str(real_data / "hostile" / "video")], out, CONFIG)
    dataset = Dataset.open(out)
    assert dataset.verify() == []
    clips, rejections = defaultdict(list), defaultdict(list)
    places, _ = dataset.clips(["clip_id"])
    for place in places:
        row = dataset.read_clip(place, CLIP_SCHEMA.names)
        clips[row["source"].rsplit("/", 1)[-1][:3]].append(row)
    for row in dataset.rejections().to_pylist():
        rejections[row["source"].rsplit("/", 1)[-1][:3]].append(row)
    for name, first in summary.copies.items():  # one of the bad files is only badly named
        clips[name.rsplit("/", 1)[-1][:3]] = clips[first.rsplit("/", 1)[-1][:3]]
    return clips, rejections


def test_clips_with_one_usable_face_are_accepted_whole(result):
    clips, rejections = result
    seconds = {"d01": 5.0, "d02": 6.12, "d03": 5.0, "d05": 8.08, "d06": 7.32, "d10": 11.72, "d11": 11.8, "d12": 5.0}
    for name, expected in seconds.items():
        assert sum(row["frames"] for row in clips[name]) / 25 == pytest.approx(expected, abs=0.05), name
        assert not rejections[name]
        assert all(row["detection_rate"] > 0.98 for row in clips[name])
        assert all(2 <= row["frames"] / 25 <= 10 for row in clips[name])


def test_clips_without_are_rejected_with_the_reason(result):
    clips, rejections = result
    reasons = {"d08": {"many_faces"}, "d09": {"no_face", "face_too_small"}, "d13": {"no_face"}}
    for name, allowed in reasons.items():
        assert not clips[name] and {row["reason"] for row in rejections[name]} <= allowed, name


def test_shot_cuts_are_where_they_are(result):
    """Cuts at 1.511, 3.580 and 7.884 s, one face between the last two; the picture starts at 0.852 s."""
    clips, rejections = result
    (row,) = clips["d07"]
    assert row["start_seconds"] == pytest.approx(3.580, abs=0.02)
    assert row["end_seconds"] == pytest.approx(7.884, abs=0.02)
    parts = sorted((part["start_seconds"], part["end_seconds"]) for part in [row, *rejections["d07"]])
    assert parts[0][0] == pytest.approx(0.852, abs=0.001)
    assert all(before[1] == pytest.approx(after[0]) for before, after in pairwise(parts))
    assert {"too_short", "many_faces"} <= {part["reason"] for part in rejections["d07"]}


def test_clips_without_sound_are_kept_and_marked(result):
    clips, _ = result
    for row in clips["d10"]:
        assert row["sound_state"] == "absent" and not row["sound"].any() and not len(row["audio_features"])
        assert row["loudness"] == float("-inf") and np.isnan(row["mouth_sound_correlation"])
    assert {row["sound_state"] for row in clips["d11"]} == {"silent"}
    for name in ("d01", "d02", "d03", "d05", "d06", "d12"):
        assert {row["sound_state"] for row in clips[name]} == {"voice"}
        assert clips[name][0]["mouth_sound_correlation"] > 0.05, name


def test_pictures_are_upright_crops_of_the_face(result):
    clips, _ = result
    for name in ("d01", "d05", "d12"):
        (row,) = clips[name]
        picture = decode_clip(row["video"])[60]
        (face,) = find_faces(np.asarray(Image.fromarray(picture).resize((256, 256))))
        assert overlap(face.box / 256, row["box"][60]) > 0.7
        assert face.landmarks[10, 1] < face.landmarks[152, 1] - 50  # forehead above chin
        assert 0.4 < np.median(row["box"][:, 3] - row["box"][:, 1]) < 0.75
    turned, straight = clips["d12"][0], clips["d01"][0]  # one shot, one of them stored lying on its side
    assert np.corrcoef(turned["rotation"][:, 0], straight["rotation"][:, 0])[0, 1] > 0.98
    assert np.corrcoef(turned["speed"], straight["speed"])[0, 1] > 0.9


def test_bad_files_end_as_they_should(result):
    clips, rejections = result
    reasons = dict.fromkeys(("v01", "v03", "v04", "v13", "v44"), "unreadable")
    reasons |= {"v05": "no_video", "v06": "too_short", "v21": "low_rate", "v24": "too_small", "v39": "no_face"}
    for name, reason in reasons.items():
        assert not clips[name] and {row["reason"] for row in rejections[name]} == {reason}, name
        assert all(row["detail"] for row in rejections[name])
    usable = {
        "v02": 2.76,
        "v09": 5.0,
        "v17": 5.0,
        "v18": 5.0,
        "v22": 3.0,
        "v27": 5.0,
        "v29": 5.0,
        "v30": 5.0,
        "v34": 2.0,
    }
    for name, seconds in usable.items():
        assert not rejections[name] or name == "v02", name  # it breaks off in the middle of a picture
        assert sum(row["frames"] for row in clips[name]) / 25 == pytest.approx(seconds, abs=0.05), name


def test_sound_lies_where_its_time_stamps_say(result):
    clips, _ = result
    late, plain = clips["v27"][0]["sound"].astype(int), clips["v29"][0]["sound"].astype(int)
    assert np.abs(late[: int(1.45 * 16_000)]).max() < 30 and np.abs(late[int(1.5 * 16_000) :]).max() > 1000
    assert len(late) == len(plain) == 5 * 16_000  # ten seconds of sound do not make five of picture longer


def test_of_several_tracks_the_first_is_taken(result):
    clips, _ = result
    (first,), (known,) = clips["v30"], clips["d03"]
    np.testing.assert_allclose(first["rotation"], known["rotation"], atol=3)
    assert np.corrcoef(first["rotation"][:, 0], known["rotation"][:, 0])[0, 1] > 0.98


def test_a_corrupt_stretch_is_no_still_face(result):
    """Its one key frame is its first: from the damage at 1.84 s on all is smeared; what is before is short."""
    clips, rejections = result
    assert not clips["v15"]
    short, corrupt = sorted(rejections["v15"], key=lambda row: row["start_seconds"])
    assert (short["reason"], corrupt["reason"]) == ("too_short", "unreadable")
    assert (corrupt["start_seconds"], corrupt["end_seconds"]) == pytest.approx((1.84, 5.0), abs=0.04)
    for row in clips["v02"]:
        pictures = decode_clip(row["video"]).astype(int)
        assert np.abs(np.diff(pictures, axis=0)).mean(axis=(1, 2, 3)).min() > 0
        assert row["speed"].min() > 0


@pytest.mark.parametrize("name", ["d01", "d02", "d03", "d06"])
def test_head_pose_agrees_with_an_independent_measure(result, real_data, name):
    """MediaPipe's face_landmarker gives a transformation matrix by its own way; smoothed alike, speeds go together."""
    import mediapipe as mp
    from mediapipe.tasks.python import BaseOptions, vision

    from emo_data.features.pose import rotation_speed
    from emo_data.video import probe, read_pictures

    info = probe(next((real_data / "video").glob(f"{name}_*")))
    options = vision.FaceLandmarkerOptions(
        base_options=BaseOptions(model_asset_path=str(real_data / "models" / "face_landmarker.task")),
        running_mode=vision.RunningMode.VIDEO,
        output_facial_transformation_matrixes=True,
    )
    turned = []
    with vision.FaceLandmarker.create_from_options(options) as landmarker:
        for number, picture in enumerate(read_pictures(info, info.at_rate(25), "pyav")):
            image = mp.Image(image_format=mp.ImageFormat.SRGB, data=picture)
            turned.append(landmarker.detect_for_video(image, number * 40).facial_transformation_matrixes[0][:3, :3])
    rotation = np.array(turned) / np.linalg.norm(turned, axis=1, keepdims=True)
    rotation = np.diag([1, -1, -1]) @ rotation @ np.diag([1, -1, -1])
    reference = rotation_speed(rotation, 25)
    (row,) = result[0][name]
    assert np.corrcoef(row["speed"], reference)[0, 1] >= 0.9
    yaw, pitch, roll = row["rotation"].T
    ours = Rotation.from_euler("ZXY", np.column_stack([roll, -pitch, -yaw]), degrees=True)
    between = ours * Rotation.from_matrix(rotation).inv()
    assert np.degrees(np.median((between * between.mean().inv()).magnitude())) <= 2
    assert 0.8 < row["speed"].mean() / reference.mean() < 1.3


def test_faces_of_portraits(real_data):
    counts = {"i01": 1, "i02": 1, "i03": 1, "i06": 1, "i07": 2}
    for name, count in counts.items():
        picture = np.asarray(Image.open(next((real_data / "image").glob(f"{name}_*"))).convert("RGB"))
        faces = find_faces(picture)
        assert len(faces) == count, name
        square = frame_face(faces[0].box, picture.shape[1], picture.shape[0])
        box = boxes_in_square(faces[0].box, square)
        assert 0.4 < box[3] - box[1] < 0.7 and box[1] > 0.05 and box[3] < 0.95
    assert find_faces(np.full((300, 300, 3), 128, np.uint8)) == []
