"""Whole evaluations of synthetic clips: what must come out, and what must not be hidden."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy import linalg

from emo_core.evaluation.block import Block
from emo_core.evaluation.expression import expression
from emo_core.evaluation.extractors import METRICS, OFFLINE, Setup, make
from emo_core.evaluation.frechet import Features
from emo_core.evaluation.pairs import find_pairs
from emo_core.evaluation.run import alone, evaluate
from emo_core.evaluation.watch import Job, blocks_of, look
from emo_data.errors import UserError
from emo_data.features.faces import find_faces
from emo_data.features.pose import rotation_speed
from emo_data.film import encode_video
from emo_data.schema import FPS
from emo_data.sound import read_sound
from emo_data.synthetic.motion import rotation_matrices
from emo_data.video import decode_clip, probe
from flows import cli

KEYS = {"fid", "fvd", "sync_confidence", "sync_offset", "fsim", "efid", "velocity_mean", "velocity_variance", "vmv"}


def scored(generated, truth, metrics=METRICS, hands=alone):
    return evaluate(find_pairs(generated, truth), Setup(metrics), hands, lambda *_: None)


@pytest.fixture(scope="module")
def method(eval_sample, tmp_path_factory):
    """Another method's videos: its own names, the first blurred, and a manifest of them."""
    folder = tmp_path_factory.mktemp("method")
    pictures = decode_clip(eval_sample.clips[0].read_bytes())
    blurred = np.stack([np.asarray(Image.fromarray(p).resize((32, 32)).resize(p.shape[1::-1])) for p in pictures])
    encode_video(folder / "out-17.mp4", blurred, FPS, read_sound(eval_sample.clips[0]))
    shutil.copy(eval_sample.clips[1], folder / "out-4.mp4")
    Image.fromarray(pictures[0]).save(folder / "portrait.png")
    rows = [
        {"generated": f"out-{number}.mp4", "truth": str(clip), "portrait": portrait, "identity": f"person {number}"}
        for number, clip, portrait in zip((17, 4), eval_sample.clips, ("portrait.png", None), strict=True)
    ]
    rows[0]["region"] = "0.2,0.1,0.8,0.9"
    (folder / "list.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), folder / "list.parquet")
    return folder


@pytest.fixture(scope="module")
def with_itself(eval_sample):
    return scored(eval_sample.folder / "clips", eval_sample.folder / "clips")


def test_videos_are_like_themselves(with_itself):
    found = with_itself.metrics
    assert set(found) >= KEYS
    assert max(found["fid"], found["fvd"], found["efid"]) < 1e-6
    assert found["sync_confidence"] > 0.6 and abs(found["sync_offset"]) <= 1
    assert found["fsim"] == with_itself.ground_truth["fsim"] and found["region_containment"] == 1
    assert not with_itself.troubled and set(with_itself.counted.values()) == {2}
    assert with_itself.reasons == {"sync_distance": "this extractor has none"}
    assert with_itself.samples["fid"].generated_rows == 200 and with_itself.samples["fvd"].truth_rows == 12


def test_head_speeds_are_the_true_ones(with_itself, eval_sample):
    means = []
    for clip, angles in zip(with_itself.clips, eval_sample.rotations.values(), strict=True):
        true = rotation_speed(rotation_matrices(angles), FPS)
        assert clip.truth.velocity_mean == pytest.approx(true.mean(), abs=0.15)
        means.append(clip.truth.velocity_mean)
    assert with_itself.metrics["velocity_mean"] == pytest.approx(np.mean(means))
    assert with_itself.metrics["vmv"] == pytest.approx(np.var(means))
    assert sum(with_itself.speed_frames["truth"]) == 200


@pytest.fixture(scope="module")
def of_method(method):
    return scored(method / "list.jsonl", None)


def test_every_manifest_says_the_same(method):
    assert find_pairs(method / "list.jsonl", None) == find_pairs(method / "list.parquet", None)


def test_another_methods_videos_need_no_new_names(of_method):
    one = of_method
    assert [(clip.name, clip.identity) for clip in one.clips] == [("out-17", "person 17"), ("out-4", "person 4")]
    assert not one.troubled and one.metrics["fid"] > 0.01 and one.metrics["fvd"] > 0.01 and one.metrics["efid"] > 1e-3
    blurred, copied = one.clips
    assert copied.generated == copied.truth
    assert blurred.portrait_file.endswith("portrait.png") and blurred.generated.fsim < blurred.truth.fsim
    assert 0.5 < blurred.generated.region_containment <= 1


def test_the_sums_are_those_of_all_features(method, eval_sample):
    """By scipy, from the features of all frames at once."""
    report = scored(method / "list.jsonl", None, ("fid", "efid"))
    extractors = make(Setup(("fid", "efid")))
    made = [look(Job(str(method / name)), extractors).features for name in ("out-17.mp4", "out-4.mp4")]
    true = [look(Job(str(clip)), extractors).features for clip in eval_sample.clips]
    for metric in ("fid", "efid"):
        sides = [np.concatenate([one[metric] for one in side]).astype(np.float64) for side in (made, true)]
        covariances = [np.cov(side.T) for side in sides]
        root = np.real(linalg.sqrtm(covariances[0] @ covariances[1]))
        step = sides[0].mean(0) - sides[1].mean(0)
        assert report.metrics[metric] == pytest.approx(step @ step + np.trace(sum(covariances) - 2 * root), rel=1e-3)


def test_expression_distance_grows_with_noise_on_the_landmarks(eval_sample):
    info = probe(eval_sample.clips[0])
    blocks = list(blocks_of(info, info.at_rate(FPS), "pyav", tracks_faces=True))
    landmarks = np.concatenate([block.landmarks[block.before :] for block in blocks])
    noise = np.random.default_rng(0).normal(size=landmarks.shape)
    found = []
    for pixels in (0, 0.25, 0.5, 1, 2, 4):
        features = Features()
        features.add("truth", expression(landmarks))
        features.add("generated", expression(landmarks + pixels * noise))
        found.append(features.distance().value)
    assert found[0] < 1e-6 and np.all(np.diff(found) > 0)


def test_a_turned_head_is_no_expression(eval_sample):
    """The same face, turned and moved: its distances stay."""
    points = find_faces(decode_clip(eval_sample.clips[0].read_bytes())[0])[0].landmarks.astype(np.float64)
    turned = (points - points[6]) @ rotation_matrices(np.array([[15.0, 8.0, 10.0]]))[0].T * 1.3 + points[6]
    straight, other = (expression(one[None])[0] for one in (points, turned))
    assert other == pytest.approx(straight, rel=0.02, abs=0.2)


@pytest.mark.parametrize("metric", ["efid", "fsim"])
def test_where_the_face_is_does_not_matter(eval_sample, metric):
    """The mesh sees a face from straight ahead wherever it is in the picture."""
    picture = decode_clip(eval_sample.clips[0].read_bytes())[:1]
    marks = find_faces(picture[0])[0].landmarks[None]
    rows = []
    for moved in (0, 90):
        block = Block(picture, marks + np.float32([moved, -moved, 0]), np.ones(1, bool), 0)
        rows.append(OFFLINE[metric]().features(block)[0])
    assert rows[1] == pytest.approx(rows[0], abs=1e-3)


def test_ray_gives_the_same_report(method, of_method):
    from emo_core.evaluation.on_ray import ray_hands

    assert scored(method / "list.jsonl", None, hands=ray_hands(2)) == of_method


@pytest.fixture(scope="module")
def troubled(eval_sample, tmp_path_factory):
    """Truth and generated folders in which much is wrong."""
    folder = tmp_path_factory.mktemp("troubled")
    first, second = eval_sample.clips
    for side in ("truth", "generated"):
        (folder / side).mkdir()
        for name in ("fine", "faceless", "foreign", "short", "text"):
            shutil.copy(first, folder / side / f"{name}.mp4")
    sound, pictures = read_sound(first), decode_clip(first.read_bytes())
    wall = np.zeros_like(pictures) + np.random.default_rng(0).integers(0, 256, pictures.shape[1:], np.uint8)
    encode_video(folder / "generated/faceless.mp4", wall, FPS, sound)
    shutil.copy(second, folder / "generated/foreign.mp4")
    encode_video(folder / "generated/short.mp4", pictures[:72], FPS, sound[: 72 * 640])
    (folder / "generated/text.mp4").write_text("this is no video")
    shutil.copy(first, folder / "truth/lonely.mp4")
    return folder


def test_what_is_wrong_is_said_for_each_clip(troubled):
    report = scored(troubled / "generated", troubled / "truth", ("fid", "efid", "motion"))
    clips = {clip.name: clip for clip in report.clips}
    assert set(clips) == {"fine", "faceless", "foreign", "short", "text", "lonely"}
    said = {
        "fine": "",
        "faceless": "shows a face in 0 of 100 frames",
        "foreign": "wrong pairing? its sound",
        "short": "wrong pairing? it has 72 frames, its truth 100",
        "text": "cannot be read",
        "lonely": "no generated video",
    }
    for name, words in said.items():
        assert bool(clips[name].problems) == bool(words)
        assert words in " ".join(clips[name].problems)
    assert clips["faceless"].left_out == ["efid", "motion"]  # its pictures count
    assert report.counted == {"fid": 2, "efid": 1, "motion": 1}
    assert report.samples["fid"].generated_rows == report.samples["fid"].truth_rows == 200
    assert report.metrics["efid"] < 1e-6 and report.metrics["fid"] > 0.1
    assert report.metrics["vmv"] is None and "one clip" in report.reasons["vmv"]
    assert report.metrics["fsim"] is None and report.reasons["fsim"] == "not asked for"


def test_a_video_without_sound_has_pictures(eval_sample, tmp_path):
    """Its lips are set against the sound that it was made for, or against none."""
    clip, other = eval_sample.clips
    encode_video(tmp_path / "silent.mp4", decode_clip(clip.read_bytes()), FPS)
    shutil.copy(other, tmp_path / "fine.mp4")
    for truth, judged in ((clip, True), (tmp_path / "silent.mp4", False)):
        rows = [{"generated": "silent.mp4", "truth": str(truth)}, {"generated": "fine.mp4", "truth": str(other)}]
        (tmp_path / "list.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
        report = scored(tmp_path / "list.jsonl", None, ("fid", "sync"))
        silent = report.clips[1]
        assert report.counted == {"fid": 2, "sync": 1 + judged}
        assert (silent.generated.sync_offset is not None) == judged and bool(silent.problems) != judged


def emo(capfd, *words):
    code = cli.run([str(word) for word in words])
    out, err = capfd.readouterr()
    return code, out.splitlines(), err.splitlines()


def test_the_command(troubled, tmp_path, capfd):
    words = ("evaluate", "--generated", troubled / "generated", "--truth", troubled / "truth", "--workers", 0)
    code, out, err = emo(capfd, *words, "--out", tmp_path / "r.json", "--json")
    assert code == 1 and len(out) == 1
    assert any(line.startswith("problem: foreign: wrong pairing?") for line in err)
    found = json.loads(out[0])
    assert found == json.loads((tmp_path / "r.json").read_text())
    assert set(found["metrics"]) >= KEYS and {"extractors", "clips", "settings"} <= set(found)
    assert found["settings"]["resolutions"] == {"generated": ["192x192"], "truth": ["192x192"]}
    page = (tmp_path / "r.md").read_text()
    assert "| EMO | 8.76 | 3.89 | 78.96 | 67.66 | 0.116 |" in page
    assert "| **here** | – | – | – | – | – |" in page  # offline numbers do not stand beside the paper's
    assert "| region containment (Figure 7), share of the face | mediapipe-face-mesh | 1.000 | 1.000 |" in page
    assert "generated: 200 frames of 192x192; truth: 200 frames of 192x192. 25 frames per second" in page
    assert "| fid | offline-random-convolutions | 200 / 200 |" in page
    assert "offline-random-convolutions" in page and "`lonely` (left out of" in page
    for name in ("r.speeds.png", "r.clips.png"):
        assert Image.open(tmp_path / name).width > 100


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--generated", "GONE"), "GONE"),
        (("--generated", "EMPTY"), "holds no video"),
        (("--generated", "OTHER"), "no name in it is also in"),
        (("--metrics", "fid,lpips"), "choose from"),
        (("--out", "r.txt"), "--out r.txt"),
        (("--out", "folder.json"), "--out folder.json"),
        (("--weights", "GONE"), "--weights"),
        (("--generated", "bad.csv"), "column truht is not known"),
        (("--generated", "rows.csv"), "row 1: has no generated"),
        (("--generated", "region.csv"), "region 1,2,3 is not"),
        (("--generated", "five.jsonl"), "row 1: region 5 is not"),
        (("--generated", "words.csv"), "row 1: region a,b,c,d is not"),
        (("--generated", "wide.csv"), "row 1: has more cells"),
        (("--generated", "both.csv"), "leave --truth out"),
    ],
)
def test_bad_input(eval_sample, tmp_path, capfd, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    for name in ("EMPTY", "OTHER"):
        (tmp_path / name).mkdir()
    shutil.copy(eval_sample.clips[0], "OTHER/other.mp4")
    (tmp_path / "bad.csv").write_text("generated,truht\na.mp4,b.mp4\n")
    (tmp_path / "rows.csv").write_text("generated,name\n,b\n")
    (tmp_path / "region.csv").write_text('generated,region\na.mp4,"1,2,3"\n')
    (tmp_path / "five.jsonl").write_text('{"generated": "a.mp4", "region": 5}\n')
    (tmp_path / "words.csv").write_text('generated,region\na.mp4,"a,b,c,d"\n')
    (tmp_path / "wide.csv").write_text("generated,name\na.mp4,b,c\n")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "both.csv").write_text("generated,truth\na.mp4,b.mp4\n")
    given = {"--generated": "OTHER", "--truth": eval_sample.folder / "clips", "--out": "r.json"}
    if said != "no name in it is also in":
        given["--generated"] = eval_sample.folder / "clips"
    given |= dict([words])
    code, out, err = emo(capfd, "evaluate", *[word for pair in given.items() for word in pair], "--workers", 0)
    assert (code, out) == (2, [])
    assert err[-1].startswith("error: ") and said in err[-1]
    assert not (tmp_path / "r.json").exists()


def test_names_pair_two_manifests(tmp_path):
    (tmp_path / "made.csv").write_text("generated,name\nx/1.mp4,a\nx/2.mp4,b\n")
    (tmp_path / "true.csv").write_text("truth,name,portrait\ny/8.mp4,b,p.png\ny/9.mp4,a,\ny/7.mp4,a,\n")
    a, b = find_pairs(tmp_path / "made.csv", tmp_path / "true.csv")
    assert (b.generated, b.truth, b.portrait) == tuple(str(tmp_path / name) for name in ("x/2.mp4", "y/8.mp4", "p.png"))
    assert a.portrait is None and "two truth videos have this name" in a.problems[0]
    with pytest.raises(UserError, match="--truth: missing"):
        find_pairs(tmp_path / "made.csv", None)


def test_files_are_found_from_anywhere(tmp_path, monkeypatch):
    """A worker of a cluster works in another folder."""
    for side in ("made", "true"):
        (tmp_path / side).mkdir()
        (tmp_path / side / "a.mp4").touch()
    (tmp_path / "list.csv").write_text("generated,truth,audio\nmade/a.mp4,true/a.mp4,a.wav\n")
    monkeypatch.chdir(tmp_path)
    (folders,), (listed,) = find_pairs(Path("made"), Path("true")), find_pairs(Path("list.csv"), None)
    assert (folders.generated, folders.truth) == (listed.generated, listed.truth)
    assert (listed.generated, listed.audio) == (str(tmp_path / "made/a.mp4"), str(tmp_path / "a.wav"))


def test_two_people_are_no_pair(tmp_path):
    (tmp_path / "made.csv").write_text("generated,name,identity\n1.mp4,a,ann\n2.mp4,b,bob\n3.mp4,c,\n")
    (tmp_path / "true.csv").write_text("truth,name,identity\n7.mp4,a,ann\n8.mp4,b,cid\n9.mp4,c,cid\n")
    a, b, c = find_pairs(tmp_path / "made.csv", tmp_path / "true.csv")
    assert not a.problems and not c.problems and c.identity == "cid"
    assert b.problems == ["wrong pairing? it is of bob, its truth of cid"]


def test_what_is_too_short_for_a_metric_is_said(eval_sample, tmp_path):
    """A video of less than 16 frames has no clip of FVD's."""
    first, second = (decode_clip(clip.read_bytes()) for clip in eval_sample.clips)
    for side in ("made", "true"):
        (tmp_path / side).mkdir()
        encode_video(tmp_path / side / "short.mp4", first[:12], FPS)
        encode_video(tmp_path / side / "single.mp4", first[:1], FPS)
        encode_video(tmp_path / side / "whole.mp4", second[:48], FPS)
    report = scored(tmp_path / "made", tmp_path / "true", ("fid", "fvd", "motion"))
    short, single, whole = report.clips
    assert (short.left_out, single.left_out, whole.left_out) == (["fvd"], ["fvd", "motion"], [])
    assert "generated: has no 16 whole frames in a row" in short.problems
    assert "generated: no two neighbouring frames show a face" in single.problems
    assert report.counted == {"fid": 3, "fvd": 1, "motion": 2}
    assert report.samples["fvd"].generated_rows == 3


def test_a_truth_of_two_names_counts_once(eval_sample, tmp_path):
    """As where every method's video has a link to its truth beside it."""
    for side in ("made", "true"):
        (tmp_path / side).mkdir()
    for name in ("a", "b"):
        shutil.copy(eval_sample.clips[0], tmp_path / f"made/{name}.mp4")
        (tmp_path / f"true/{name}.mp4").symlink_to(eval_sample.clips[0])
    report = scored(tmp_path / "made", tmp_path / "true", ("fid",))
    assert (report.samples["fid"].generated_rows, report.samples["fid"].truth_rows) == (200, 100)


def test_folders_that_cannot_be_listed_are_not_left_out(tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir()
    (tmp_path / "a.mp4").touch()
    scandir = os.scandir

    def guarded(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(UserError, match=r"Permission denied.*locked"):
        find_pairs(tmp_path, tmp_path)


def test_linked_folders_are_looked_into(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.mp4").touch()
    for side in ("made", "true"):
        (tmp_path / side).mkdir()
        (tmp_path / side / "set").symlink_to(tmp_path / "elsewhere")
    assert [pair.name for pair in find_pairs(tmp_path / "made", tmp_path / "true")] == ["set/a"]
    (tmp_path / "elsewhere/round").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="leads back"):
        find_pairs(tmp_path / "made", tmp_path / "true")
