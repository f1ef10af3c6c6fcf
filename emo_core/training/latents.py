"""Pictures as latents, computed once per clip and codec, kept on disk as a cache of the run's data."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import nn

from emo_core.model.codec import encode_pictures
from emo_data.dataset.loader import ClipReader
from emo_data.whole import whole_file

FRAMES_AT_ONCE = 64


class LatentCache:
    """float16 latents (F, C, H, W) per clip, made when first asked for.

    A file is named by the clip and lies in a folder named by the codec's fingerprint, so no cache outlives its codec.
    """

    def __init__(self, folder: Path, codec: nn.Module, reader: ClipReader) -> None:
        self.folder = folder / _fingerprint(codec)
        self.codec = codec
        self.reader = reader
        self.folder.mkdir(parents=True, exist_ok=True)

    def latents(self, clip_id: str) -> np.ndarray:
        """A read-only memory map of the clip's latents."""
        path = self.folder / f"{clip_id}.npy"
        if not path.exists():
            with whole_file(path) as unfinished:
                np.save(unfinished, self._encode(clip_id))
        return np.load(path, mmap_mode="r")  # opened anew each time: a map that is kept keeps a file open

    @torch.no_grad()
    def _encode(self, clip_id: str) -> np.ndarray:
        pictures = torch.from_numpy(self.reader.pictures(clip_id)).movedim(-1, 1)
        device = next(self.codec.buffers(), next(self.codec.parameters(), torch.empty(0))).device
        parts = [
            encode_pictures(self.codec, part.to(device).float() / 127.5 - 1).half().cpu()
            for part in pictures.split(FRAMES_AT_ONCE)
        ]
        return torch.cat(parts).numpy()


def _fingerprint(codec: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(codec.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
