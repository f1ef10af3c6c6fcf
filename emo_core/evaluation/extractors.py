"""Which extractor each metric uses: the standard network where its file is there, else the offline one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from emo_core.evaluation.block import Extractor, SyncExtractor
from emo_core.evaluation.expression import FaceReconstruction, LandmarkExpression
from emo_core.evaluation.identity import FaceGeometry, FaceRecognition
from emo_core.evaluation.pixels import I3D, Inception, RandomClips, RandomFrames
from emo_core.evaluation.sync import MouthAndSound, SyncNet
from emo_core.evaluation.weights import opened
from emo_data.errors import UserError

METRICS = ("fid", "fvd", "sync", "fsim", "efid", "motion")
FACELESS = frozenset({"fid", "fvd"})
"""Metrics that look at whole pictures."""


class Standard(NamedTuple):
    """A network that the field uses: its file in --weights, and what wraps it."""

    file: str
    wrap: Callable[..., Extractor]
    source: str


STANDARD = {
    "fid": Standard("inception.pt", Inception, "inception-2015-12-05.pt of StyleGAN2-ADA's and StyleGAN3's metrics"),
    "fvd": Standard("i3d.pt", I3D, "i3d_torchscript.pt of StyleGAN-V's metrics"),
    "sync": Standard("syncnet.pt", SyncNet, "syncnet_v2.model of syncnet_python, saved as TorchScript"),
    "fsim": Standard(
        "arcface.pt", FaceRecognition, "any recognition network trained on ArcFace's crops, as TorchScript"
    ),
    "efid": Standard("recon3d.pt", FaceReconstruction, "the regressor of Deep3DFaceRecon_pytorch, as TorchScript"),
}
OFFLINE: dict[str, Callable[[], Extractor]] = {
    "fid": RandomFrames,
    "fvd": RandomClips,
    "sync": MouthAndSound,
    "fsim": FaceGeometry,
    "efid": LandmarkExpression,
}


@dataclass(frozen=True)
class Setup:
    """What a worker needs to make its extractors. weights: a folder, or None for the offline ones alone."""

    metrics: tuple[str, ...] = METRICS
    weights: str | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Extractors:
    """By metric; motion needs none. sync is apart, for it hears, too."""

    of_pictures: dict[str, Extractor]
    sync: SyncExtractor | None
    tracks_faces: bool

    def described(self) -> dict[str, dict[str, Any]]:
        """metric -> name, standard, file, sha256."""
        known = self.of_pictures | ({"sync": self.sync} if self.sync else {})
        told = {
            metric: {
                "name": one.name,
                "standard": one.standard,
                "file": one.net.file if one.net else None,
                "sha256": one.net.sha256 if one.net else None,
            }
            for metric, one in known.items()
        }
        if self.tracks_faces:
            told["faces"] = {"name": "mediapipe-face-mesh", "standard": False, "file": None, "sha256": None}
        return told


def checked(metrics: Sequence[str]) -> tuple[str, ...]:
    """In the order of `METRICS`. UserError for one that is not known, and for none."""
    unknown = [metric for metric in metrics if metric not in METRICS]
    if unknown or not metrics:
        raise UserError(f"--metrics {','.join(metrics)}: choose from {', '.join(METRICS)}")
    return tuple(metric for metric in METRICS if metric in metrics)


def make(setup: Setup) -> Extractors:
    """Open the networks that are there. UserError for a folder that is not, and for a file that may not be opened."""
    if setup.weights is not None and not Path(setup.weights).is_dir():
        raise UserError(f"--weights {setup.weights}: there is no such folder")
    made = {metric: _one(metric, setup) for metric in setup.metrics if metric in OFFLINE}
    sync: Any = made.pop("sync", None)
    return Extractors(made, sync, bool(set(setup.metrics) - FACELESS))


def _one(metric: str, setup: Setup) -> Extractor:
    standard = STANDARD[metric]
    if setup.weights is not None:
        net = opened(Path(setup.weights), standard.file, torch.device(setup.device))
        if net is not None:
            return standard.wrap(net)
    return OFFLINE[metric]()
