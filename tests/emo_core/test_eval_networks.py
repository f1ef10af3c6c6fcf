"""Files that stand in for the standard networks: how they are opened, and what exactly they are given."""

import hashlib

import numpy as np
import pytest
import torch

from emo_core.evaluation.alignment import aligned
from emo_core.evaluation.block import FRAMES, Block
from emo_core.evaluation.expression import DEEP3D
from emo_core.evaluation.extractors import OFFLINE, STANDARD, Setup, make
from emo_core.evaluation.identity import ARCFACE
from emo_core.evaluation.watch import Job, blocks_of, look
from emo_core.evaluation.weights import SUMS
from emo_data.errors import UserError
from emo_data.features.faces import find_faces
from emo_data.video import decode_clip, probe


class Inception(torch.nn.Module):
    def forward(self, pictures: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        assert return_features and pictures.dtype == torch.uint8 and pictures.shape[1] == 3
        return pictures.float().mean((2, 3)).repeat(1, 683)[:, :2048]


class I3D(torch.nn.Module):
    def forward(
        self, clip: torch.Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False
    ) -> torch.Tensor:
        assert return_features and not rescale and not resize and clip.shape[1:] == (3, 16, 224, 224)
        assert clip.abs().max() < 1.001
        return clip.mean((2, 3, 4)).repeat(1, 134)[:, :400]


class Sync(torch.nn.Module):
    def forward(self, nothing: torch.Tensor) -> torch.Tensor:
        return nothing

    @torch.jit.export
    def forward_lip(self, lips: torch.Tensor) -> torch.Tensor:
        assert lips.shape[1:] == (3, 5, 224, 224)
        return lips.mean((2, 3, 4)).repeat(1, 342)[:, :1024]

    @torch.jit.export
    def forward_aud(self, cepstra: torch.Tensor) -> torch.Tensor:
        assert cepstra.shape[1:] == (1, 13, 20)
        return cepstra.mean((1, 2)).repeat(1, 52)[:, :1024]


class Arc(torch.nn.Module):
    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        assert faces.shape[1:] == (3, 112, 112) and faces.abs().max() < 1.001
        return torch.nn.functional.avg_pool2d(faces, 16).flatten(1)


class Recon(torch.nn.Module):
    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        assert faces.shape[1:] == (3, 224, 224) and faces.min() >= 0 and faces.max() <= 1
        return torch.nn.functional.avg_pool2d(faces, 24).flatten(1)[:, :243].repeat(1, 2)[:, :257]


NETS = {"fid": Inception, "fvd": I3D, "sync": Sync, "fsim": Arc, "efid": Recon}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    for metric, net in NETS.items():
        torch.jit.script(net()).save(str(folder / STANDARD[metric].file))
    state(folder)
    return folder


def state(folder):
    """Write SHA256SUMS as sha256sum does."""
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in sorted(folder.glob("*.pt"))]
    (folder / SUMS).write_text("\n".join(lines) + "\n")


def test_each_network_gets_what_it_expects(weights, eval_sample):
    extractors = make(Setup(weights=str(weights)))
    told = extractors.described()
    assert all(told[metric]["standard"] and len(told[metric]["sha256"]) == 64 for metric in NETS)
    assert not any("offline" in one["name"] for one in told.values())
    seen = look(Job(str(eval_sample.clips[0])), extractors)
    assert {metric: rows.shape for metric, rows in seen.features.items()} == {
        "fid": (100, 2048),
        "fvd": (6, 400),
        "fsim": (100, 147),
        "efid": (100, 64),
    }
    pictures = decode_clip(eval_sample.clips[0].read_bytes())
    assert seen.features["fid"][:, :3] == pytest.approx(pictures.mean((1, 2)), abs=0.01)  # RGB, every frame, in order
    assert seen.features["fvd"][1, :3] == pytest.approx(pictures[16:32].mean((0, 1, 2)) / 127.5 - 1, abs=0.01)
    assert seen.sync is not None and seen.sync.distance > 0


def test_lips_are_the_same_whatever_the_block(weights, eval_sample):
    """Five frames in a row reach over the border of two blocks."""
    extractors = make(Setup(("sync",), str(weights)))
    pictures = decode_clip(eval_sample.clips[0].read_bytes())[:20]
    face = find_faces(pictures[0])[0].landmarks
    marks = np.repeat(face[None], 20, axis=0)
    whole = extractors.sync.features(Block(pictures, marks, np.ones(20, bool), 0))
    later = extractors.sync.features(Block(pictures[12:], marks[12:], np.ones(8, bool), 4))
    assert np.isnan(whole[:4]).all() and np.isfinite(whole[4:]).all()
    assert later == pytest.approx(whole[16:])
    info = probe(eval_sample.clips[0])
    rows = [extractors.sync.features(block) for block in blocks_of(info, info.at_rate(25), "pyav", tracks_faces=True)]
    assert np.flatnonzero(np.isnan(np.concatenate(rows)[:, 0])).tolist() == [0, 1, 2, 3]


def test_faces_are_upright_and_in_place(eval_sample):
    pictures = decode_clip(eval_sample.clips[0].read_bytes())[:1]
    turned = np.rot90(pictures, axes=(1, 2)).copy()
    blocks = []
    for picture in (pictures, turned):
        face = find_faces(picture[0])
        blocks.append(Block(picture, face[0].landmarks[None], np.ones(1, bool), 0) if face else None)
    points = blocks[0].landmarks.copy()
    side = pictures.shape[2]
    points[..., 0], points[..., 1] = blocks[0].landmarks[..., 1], side - 1 - blocks[0].landmarks[..., 0]
    straight, back = (
        aligned(block, ARCFACE, 112).astype(float) for block in (blocks[0], Block(turned, points, np.ones(1, bool), 0))
    )
    assert np.abs(straight - back).mean() < 3
    again = find_faces(np.kron(straight[0].astype(np.uint8), np.ones((4, 4, 1), np.uint8)))[0].landmarks / 4
    assert again[[33, 133], 0].mean() == pytest.approx(38.3, abs=4)
    assert again[1, :2] == pytest.approx([56, 71.7], abs=7)
    wide = aligned(blocks[0], DEEP3D, 224)[0]
    marks = find_faces(wide)[0].landmarks[:, :2]
    eyes, mouth = marks[[33, 133, 263, 362]].mean(axis=0), marks[[61, 291]].mean(axis=0)
    assert eyes == pytest.approx([112, 82], abs=6) and mouth == pytest.approx([112, 151], abs=10)


def test_only_what_is_there_is_standard(weights, tmp_path):
    for name in (STANDARD["fid"].file, SUMS):
        (tmp_path / name).write_bytes((weights / name).read_bytes())
    told = make(Setup(weights=str(tmp_path))).described()
    assert {metric for metric, one in told.items() if one["standard"]} == {"fid"}
    assert all(told[metric]["name"].startswith("offline-") for metric in ("fvd", "sync", "fsim", "efid"))
    assert set(OFFLINE) == set(STANDARD)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / SUMS).unlink(), "does not name it"),
        (lambda folder: (folder / SUMS).write_text("sum of all\n"), "is not `sha256  name`"),
        (lambda folder: (folder / SUMS).write_bytes(b"\xff\xfe"), "is no text"),
        (lambda folder: (folder / "inception.pt").write_bytes(b"other"), "fetch the file again"),
        (lambda folder: [(folder / "inception.pt").write_bytes(b"text"), state(folder)], "is no TorchScript file"),
    ],
)
def test_files_that_are_not_opened(weights, tmp_path, spoil, said):
    for name in (STANDARD["fid"].file, SUMS):
        (tmp_path / name).write_bytes((weights / name).read_bytes())
    spoil(tmp_path)
    with pytest.raises(UserError, match=said):
        make(Setup(("fid",), str(tmp_path)))


def test_workers_with_other_weights_do_not_measure(weights, tmp_path, eval_sample):
    """Else what is said to be FID could be measured offline."""
    from emo_core.evaluation.on_ray import ray_hands

    for name in (STANDARD["fid"].file, SUMS):
        (tmp_path / name).write_bytes((weights / name).read_bytes())
    with ray_hands(1)(Setup(("fid",), str(tmp_path))) as work:
        (tmp_path / STANDARD["fid"].file).unlink()
        with pytest.raises(UserError, match="does not have the networks"):
            list(work([Job(str(eval_sample.clips[0]))]))


def test_a_network_that_is_another(weights, tmp_path, eval_sample):
    (tmp_path / "inception.pt").write_bytes((weights / "arcface.pt").read_bytes())
    state(tmp_path)
    with pytest.raises(UserError, match=r"inception\.pt"):
        look(Job(str(eval_sample.clips[0])), make(Setup(("fid",), str(tmp_path))))


class Broken(torch.nn.Module):
    def forward(self, pictures: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        return torch.full((len(pictures), 2048), float("nan"))


def test_a_network_that_gives_no_numbers(tmp_path, eval_sample):
    torch.jit.script(Broken()).save(str(tmp_path / "inception.pt"))
    state(tmp_path)
    with pytest.raises(UserError, match=r"inception\.pt: gives features that are not finite"):
        look(Job(str(eval_sample.clips[0])), make(Setup(("fid",), str(tmp_path))))


def test_a_missing_picture_is_no_feature():
    there = np.ones(FRAMES, bool)
    there[3] = False
    block = Block(
        np.random.default_rng(0).integers(0, 256, (FRAMES, 40, 40, 3), np.uint8),
        np.full((FRAMES, 478, 3), np.nan, np.float32),
        there,
        0,
    )
    assert OFFLINE["fid"]().features(block).shape == (FRAMES - 1, 128)
    assert OFFLINE["fvd"]().features(block).shape == (0, 256)
