"""Ingestion of sample clips, whose every frame is known."""

from pathlib import Path

import numpy as np
import pytest

from emo_data.errors import UserError
from emo_data.features.audio import AudioEncoder
from emo_data.features.faces import FaceTracker, find_faces, overlap
from emo_data.features.pose import RIGID, fit_pose, rotation_speed
from emo_data.ingest.config import IngestConfig
from emo_data.ingest.hear import hear
from emo_data.ingest.plan import chunks_of
from emo_data.ingest.run import ingest
from emo_data.ingest.sources import find_units, identity_of, on_one_side, split_of
from emo_data.ingest.watch import survey_video, watch
from emo_data.ingest.worker import content_hash
from emo_data.schema import CLIP_SCHEMA, table_of, value_of
from emo_data.store import Dataset
from emo_data.synthetic import sample as synthetic
from emo_data.synthetic.head import Head
from emo_data.synthetic.look import LOOKS
from emo_data.synthetic.motion import rotation_matrices
from emo_data.video import decode_clip
from tests.emo_data.conftest import CONFIG

CLIPS = ["look0_000.mp4", "look1_001.mp4", "look2_002.mp4", "look3_003.mp4"]


def test_each_good_clip_is_one_row_and_the_rest_is_explained(ingested, rows):
    dataset, summary, told = ingested
    assert sorted(rows) == CLIPS
    assert (summary.sources, summary.clips, len(summary.copies), summary.already_done) == (6, 4, 1, 0)
    assert summary.rejections == {"unreadable": 1} and summary.hours == pytest.approx(16 / 3600)
    assert {Path(name).name: Path(first).name for name, first in summary.copies.items()} == {
        "look9_copy.mp4": "look0_000.mp4"
    }
    assert [done for phase, done, total, _ in told if phase == "survey" and total == 6] == [1, 2, 3, 4, 5, 6]
    assert [done for phase, done, total, _ in told if phase == "ingest" and total == 16][-5:] == [0, 4, 8, 12, 16]
    assert "4 clips" in told[-1][-1] and "unreadable 1" in told[-1][-1]
    (rejected,) = dataset.rejections().to_pylist()
    assert rejected["source"].endswith("broken.mp4") and "Invalid data" in rejected["detail"]
    assert dataset.verify() == []


def test_a_row_holds_what_the_schema_says(rows):
    for row in rows.values():
        frames, layers, width = row["frames"], len(row["audio_layers"]), row["audio_width"]
        assert frames == 100 and row["fps"] == 25 and row["size"] == 128
        assert decode_clip(row["video"]).shape == (frames, 128, 128, 3)
        assert row["sound"].shape == (round(frames / 25 * 16_000),) and np.abs(row["sound"]).max() > 1000
        assert row["audio_features"].shape == (frames * layers * width,)
        assert np.isfinite(row["audio_features"]).all()
        shapes = {"box": (4,), "rotation": (3,), "translation": (3,), "speed": (), "mouth_opening": ()}
        for name, shape in shapes.items():
            assert row[name].shape == (frames, *shape) and np.isfinite(row[name]).all()
        assert row["box"].min() >= 0 and row["box"].max() <= 1
        assert row["detection_rate"] == 1 and row["sound_state"] == "voice"
        assert row["end_seconds"] - row["start_seconds"] == pytest.approx(4)


def test_features_are_those_that_inference_would_compute(rows):
    encoder = AudioEncoder.load("tiny")
    for row in rows.values():
        sound = row["sound"].astype(np.float32) / 32767
        expected = encoder.encode(sound, row["frames"], 25)
        assert row["audio_extractor"] == encoder.fingerprint
        stored = row["audio_features"].reshape(expected.shape).astype(np.float32)
        assert np.abs(stored - expected).mean() < 0.01 * np.abs(stored).mean() + 1e-3


def test_boxes_are_where_the_face_is(rows, truth):
    """The stored picture is a crop: its own face, found anew, is inside the stored box; the source's truth agrees."""
    for name, row in rows.items():
        known = truth[f"clips/{name}"]["box"]
        side = (known[:, 3] - known[:, 1]).mean() / (row["box"][:, 3] - row["box"][:, 1]).mean()
        origin = (known[:, :2] - row["box"][:, :2] * side).mean(axis=0)
        back = row["box"] * side + np.tile(origin, 2)
        assert min(overlap(a, b) for a, b in zip(back, known, strict=True)) > 0.7
        assert 0.4 < np.median(row["box"][:, 3] - row["box"][:, 1]) < 0.75  # the sample's faces fill their picture
        for frame in (0, 99):
            (face,) = find_faces(decode_clip(row["video"])[frame])
            assert overlap(face.box / 128, row["box"][frame]) > 0.7


def test_pose_speed_and_mouth_follow_the_truth(rows, truth):
    measured, known = [], []
    for name, row in rows.items():
        told = truth[f"clips/{name}"]
        measured.append(row["speed"])
        known.append(rotation_speed(rotation_matrices(told["rotation"]), 25))
        assert np.corrcoef(row["mouth_opening"], told["mouth_opening"])[0, 1] > 0.9
        assert row["mouth_sound_correlation"] > 0.7
        for axis, least in ((0, 0.9), (1, 0.7), (2, 0.9)):
            assert np.corrcoef(row["rotation"][:, axis], told["rotation"][:, axis])[0, 1] > least
    measured, known = np.concatenate(measured), np.concatenate(known)
    assert np.corrcoef(measured, known)[0, 1] > 0.9
    assert 0.8 < np.polyfit(known, measured, 1)[0] < 1.2


def test_a_head_at_rest_that_speaks_hardly_turns(monkeypatch):
    """What is left is the jitter of the mesh: 0.15 degrees per frame at most."""
    monkeypatch.setattr(synthetic, "head_motion", lambda seed, frames, speed: np.tile([[4.0, 2.0, 1.0]], (frames, 1)))
    clip = synthetic.render_clip(Head(LOOKS[0], 192), (7, 1), 5, 0.1)
    with FaceTracker() as tracker:
        rigid = np.array([tracker.track(picture).face.landmarks[RIGID] for picture in clip.frames])
    assert clip.mouth_opening.std() > 0.01
    assert rotation_speed(fit_pose(rigid, 192, 192).rotation, 25).mean() < 0.15


def test_running_again_does_only_what_is_missing(ingested, sample):
    dataset, _, _ = ingested
    before = [commit.key for commit in dataset.commits()]
    again = ingest([str(sample / "clips")], dataset.url, CONFIG)
    assert (again.clips, again.already_done, len(again.copies), again.rejections) == (0, 5, 1, {})
    assert [commit.key for commit in dataset.commits()] == before
    with pytest.raises(UserError, match="size 128, not 64"):
        ingest([str(sample / "clips")], dataset.url, CONFIG.model_copy(update={"size": 64}))


def test_the_same_source_gives_the_same_row_again(rows, sample):
    (source,) = on_one_side(find_units([str(sample / "clips" / CLIPS[1])], CONFIG), {}, CONFIG)
    path = Path(source.uri)
    survey = survey_video(path, content_hash(path), CONFIG, lambda: None)
    (chunk,) = chunks_of(source, "", survey, "key", CONFIG)
    looked = table_of(watch(path, chunk, CONFIG, lambda: None).clips, CLIP_SCHEMA)
    heard = hear(looked, AudioEncoder.load("tiny"))
    row = {name: value_of(heard.column(name)[0]) for name in CLIP_SCHEMA.names}
    for name in CLIP_SCHEMA.names:
        new, stored = row[name], rows[CLIPS[1]][name]
        if stored is None:
            assert new is None
        elif isinstance(stored, np.ndarray | float):
            np.testing.assert_allclose(new, stored, rtol=1e-6, err_msg=name)
        else:
            assert new == stored, name


def test_identities_decide_the_split(rows):
    for name, row in rows.items():
        assert row["identity"] == name.split("_")[0]
        assert row["split"] == split_of(row["identity"], 0.5)
    assert identity_of("/a/b/look2_007.mp4", None) == "look2_007"
    assert identity_of("/a/b/look2_007.mp4", "^(look[0-9]+)_") == "look2"
    assert identity_of("/a/b/other.mp4", "^(look[0-9]+)_") == "other"
    shares = [split_of(f"person {number}", 0.1) for number in range(2000)]
    assert shares.count("test") == pytest.approx(200, abs=50)
    assert {split_of(f"person {number}", 0.0) for number in range(100)} == {"train"}


def test_a_file_that_cannot_be_opened_is_rejected_and_tried_again(tmp_path, sample):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    out = str(tmp_path / "data")
    for _ in range(2):
        summary = ingest([str(folder)], out, CONFIG)
        assert (summary.already_done, summary.rejections) == (0, {"unreadable": 1})
    assert Dataset.open(out).rejections().num_rows == 1


def test_sources_are_files_folders_and_globs(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("b.mp4", "a.MOV", "notes.txt", "deep/er/c.webm", "[odd].mkv"):
        (tmp_path / name).touch()

    def paths(sources):
        return [unit.uri for unit in find_units(sources, CONFIG)]

    names = [str(tmp_path / name) for name in ("[odd].mkv", "a.MOV", "b.mp4", "deep/er/c.webm")]
    assert paths([str(tmp_path)]) == names
    assert paths([str(tmp_path / "*.mp4"), str(tmp_path / "b.mp4")]) == [names[2]]
    assert paths([str(tmp_path / "[odd].mkv")]) == [names[0]]
    assert paths([str(tmp_path / "notes.txt")]) == [str(tmp_path / "notes.txt")]
    (tmp_path / "empty").mkdir()
    for nothing in (str(tmp_path / "empty"), str(tmp_path / "none*.mp4"), str(tmp_path / "gone.mp4")):
        with pytest.raises(UserError) as error:
            find_units([nothing], CONFIG)
        assert nothing in str(error.value)


def test_the_form_refuses_nonsense():
    for wrong in (
        {"size": 33},
        {"fps": 0},
        {"min_seconds": 5, "max_seconds": 4},
        {"typo": 1},
        {"identity_pattern": "x"},
    ):
        with pytest.raises(ValueError):
            IngestConfig(**wrong)
    assert IngestConfig().fingerprint("e") != IngestConfig().fingerprint("f") != IngestConfig(size=64).fingerprint("f")
