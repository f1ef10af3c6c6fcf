"""Pictures as latents: encoded as they come, or once per clip and codec and kept for every run that has that codec."""

import hashlib
import io
import json
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from emo_core.ahead import ahead
from emo_core.model.codec import Codec, encode_pictures
from emo_data.dataset.index import ClipIndex
from emo_data.objects import Folder

PIXELS_AT_ONCE = 2**21
"""Pictures are encoded in groups of about so many pixels: eight of 512 x 512, which take the VAE 3 GiB."""


@torch.no_grad()
def encode(codec: Codec, pictures: Tensor, bf16: bool) -> Tensor:
    """uint8 pictures (..., H, W, 3) -> float32 latents (..., C, H, W), rounded to float16 as a cache would."""
    device = next(codec.parameters()).device
    flat = pictures.reshape(-1, *pictures.shape[-3:]).movedim(-1, 1)
    each = max(1, PIXELS_AT_ONCE // (flat.shape[-1] * flat.shape[-2]))
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        parts = [encode_pictures(codec, part.to(device).float() / 127.5 - 1).half() for part in flat.split(each)]
    return torch.cat(parts).float().unflatten(0, pictures.shape[:-3])


class LatentCache:
    """float16 latents (F, C, H, W) of whole clips, in a folder on a disk or in a store.

    A file is named by the object and row that hold the clip, so by all of its content, and lies in a folder that is
    named by the codec's fingerprint. So no latents outlive their pictures or their codec.
    """

    def __init__(self, url: str, codec_fingerprint: str, index: ClipIndex) -> None:
        self._folder = Folder(f"{url.rstrip('/')}/{codec_fingerprint}")
        self._index = index

    def __call__(self, clip: int, frames: np.ndarray) -> np.ndarray:
        """(N, C, H, W) of the frames with these numbers, ascending; only they are read."""
        with self._folder.open(self._name(clip)) as file:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            start, each = file.tell(), int(np.prod(shape[1:])) * dtype.itemsize
            data = bytearray()
            for run in np.split(frames, np.flatnonzero(np.diff(frames) != 1) + 1):
                file.seek(start + int(run[0]) * each)
                data += file.read(len(run) * each)
        return np.frombuffer(bytes(data), dtype).reshape(len(frames), *shape[1:])

    def missing(self) -> list[int]:
        """The clips that are not in it yet."""
        there = set(self._folder.names(""))
        return [clip for clip in range(len(self._index)) if self._name(clip) not in there]

    def fill(self, codec: Codec, clips: Sequence[int], bf16: bool) -> None:
        """Encode whole clips."""
        pictures = ahead(self._index.pictures(clip) for clip in clips)
        for clip, shown in zip(clips, pictures, strict=True):
            buffer = io.BytesIO()
            np.save(buffer, encode(codec, torch.from_numpy(shown), bf16).half().cpu().numpy())
            self._folder.write(self._name(clip), buffer.getvalue())

    def _name(self, clip: int) -> str:
        place = self._index.place(clip)
        return f"{place.path.rpartition('/')[2].removesuffix('.parquet')}-{place.row}.npy"


def codec_fingerprint(codec: Codec) -> str:
    """sha256 (first 16 hex digits) of a codec's weights and settings."""
    settings = {key: value for key, value in codec.config.items() if not key.startswith("_")}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, value in sorted(codec.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
