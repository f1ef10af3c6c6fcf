"""What frames and short clips look like: the features of FID and FVD (EMO 4.2).

Legend: N frames, D width.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from emo_core.evaluation.block import FRAMES, Block
from emo_core.evaluation.weights import Net

_SIDE = 64
_CHANNELS = (3, 16, 32, 64)
_SEED = 2402


class RandomNet:
    """Three strided convolutions with fixed random weights: 64 x 64 RGB -> mean and deviation of 64 channels.

    Not in the paper. It knows nothing of faces; it sees that a set of pictures is blurred, noisy, wrongly coloured or
    shows something else. numpy's RandomState gives the same numbers everywhere.
    """

    def __init__(self) -> None:
        numbers = np.random.RandomState(_SEED)
        self._kernels = [
            torch.from_numpy(numbers.normal(0, (2 / (9 * below)) ** 0.5, (above, below, 3, 3)).astype(np.float32))
            for below, above in pairwise(_CHANNELS)
        ]

    @torch.inference_mode()
    def __call__(self, pictures: Tensor) -> np.ndarray:
        """float (N, 3, 64, 64) -> float32 (N, 128)."""
        values = pictures
        for kernel in self._kernels:
            values = functional.relu(functional.conv2d(values, kernel, stride=2, padding=1))
        return torch.cat([values.mean((2, 3)), values.std((2, 3))], dim=1).numpy()


def _small(pictures: np.ndarray) -> Tensor:
    """uint8 (N, H, W, 3) -> float32 (N, 3, 64, 64) in -1..1, by area."""
    import cv2

    small = np.stack([cv2.resize(picture, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA) for picture in pictures])
    return torch.from_numpy(small).permute(0, 3, 1, 2).float() / 127.5 - 1


@dataclass(frozen=True)
class RandomFrames:
    """Offline, for FID."""

    name: str = "offline-random-convolutions"
    standard: bool = False
    net: None = None
    random: RandomNet = field(default_factory=RandomNet)

    def features(self, block: Block) -> np.ndarray:
        """(N, 128), a row for each frame that could be decoded."""
        fresh = block.pictures[block.before :][block.there[block.before :]]
        return self.random(_small(fresh)) if len(fresh) else np.empty((0, 2 * _CHANNELS[-1]), np.float32)


@dataclass(frozen=True)
class RandomClips:
    """Offline, for FVD: how frames look, and how neighbouring ones differ."""

    name: str = "offline-random-convolutions-over-time"
    standard: bool = False
    net: None = None
    random: RandomNet = field(default_factory=RandomNet)

    def features(self, block: Block) -> np.ndarray:
        """(1, 256) of a block of 16 whole frames, else (0, 256): mean over frames, and over their 15 differences."""
        pictures = whole_clip(block)
        if pictures is None:
            return np.empty((0, 4 * _CHANNELS[-1]), np.float32)
        small = _small(pictures)
        both = self.random(small).mean(axis=0), self.random(small.diff(dim=0)).mean(axis=0)
        return np.concatenate(both)[None]


@dataclass(frozen=True)
class Inception:
    """FID's network (Heusel et al., 2017): Inception v3 as in TensorFlow, its 2048 pooled features.

    The TorchScript `inception-2015-12-05` of StyleGAN's metrics: forward(uint8 (N, 3, H, W) RGB, return_features=True),
    which scales to 299 x 299 itself.
    """

    net: Net
    name: str = "inception-v3-pool3"
    standard: bool = True

    def features(self, block: Block) -> np.ndarray:
        """(N, 2048), a row for each frame that could be decoded."""
        fresh = block.pictures[block.before :][block.there[block.before :]]
        if not len(fresh):
            return np.empty((0, 2048), np.float32)
        return self.net(fresh.transpose(0, 3, 1, 2), width=2048, return_features=True)


@dataclass(frozen=True)
class I3D:
    """FVD's network (Unterthiner et al., 2018): I3D trained on Kinetics-400, its 400 logits.

    The TorchScript of StyleGAN-V: forward(float32 (1, 3, 16, 224, 224) RGB in -1..1, rescale=False, resize=False,
    return_features=True).
    """

    net: Net
    name: str = "i3d-kinetics-400"
    standard: bool = True

    def features(self, block: Block) -> np.ndarray:
        """(1, 400) of a block of 16 whole frames, else (0, 400). Frames are scaled to 224 x 224, bilinearly."""
        pictures = whole_clip(block)
        if pictures is None:
            return np.empty((0, 400), np.float32)
        scaled = functional.interpolate(
            torch.from_numpy(pictures).permute(0, 3, 1, 2).float(), (224, 224), mode="bilinear", align_corners=False
        )
        clip = (scaled / 127.5 - 1).permute(1, 0, 2, 3)[None].numpy()
        return self.net(clip, width=400, rescale=False, resize=False, return_features=True)


def whole_clip(block: Block) -> np.ndarray | None:
    """uint8 (16, H, W, 3), or None where the block is shorter or a picture is missing."""
    fresh = block.pictures[block.before :]
    return fresh if len(fresh) == FRAMES and block.there[block.before :].all() else None
