"""Sound in, one vector per frame and wav2vec2 layer out (EMO 3.2.2: features of several wav2vec blocks).

Legend: S samples at 16 kHz, F frames at `fps`, L layers kept, D width of a layer.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import Wav2Vec2Config, Wav2Vec2Model
from transformers.utils import logging as hf_logging

from emo_data.errors import UserError
from emo_data.indexed import ByTime
from emo_data.schema import SAMPLE_RATE

HOP_SECONDS = 8
CONTEXT_SECONDS = 2
QUIETEST_RMS = 0.01
"""A window quieter than this (-40 dBFS) is not amplified to full scale: hiss must not look like speech."""

Layers = Literal["all"] | list[int]


class AudioEncoder:
    """wav2vec2 with a fixed window, context and normalisation: ingestion and inference call this one function.

    Not in the paper: the windows. wav2vec2 normalises over time, so a feature depends on the sound around it. Every
    sound is cut at multiples of 8 s, each piece is heard with up to 2 s before and after it, and only the piece itself
    is kept. Pieces end where the sound ends and are never padded with silence: that would change the scale of the rest.
    Moving this grid by 1 to 6 s changes interior features of one voice by 2 to 4 % of their norm (the small model).
    """

    def __init__(self, model: Wav2Vec2Model, layers: Layers | None = None) -> None:
        """layers: hidden states to keep, 1 to the number of blocks; "all"; None takes what the model's config says."""
        self.model = model.eval().requires_grad_(False)
        depth = model.config.num_hidden_layers
        chosen: Layers = getattr(model.config, "emo_layers", "all") if layers is None else layers
        self.layers: list[int] = list(range(1, depth + 1)) if chosen == "all" else sorted(set(chosen))
        if not self.layers or self.layers[0] < 1 or self.layers[-1] > depth:
            raise UserError(f"audio layers {chosen}: this wav2vec2 has layers 1 to {depth}; choose from these")
        self.width: int = model.config.hidden_size
        self.fingerprint = _fingerprint(model)

    @classmethod
    def load(cls, name_or_folder: str | Path, layers: Layers | None = None) -> Self:
        """A local folder, a hub id (cached or downloaded), or "tiny": a small random wav2vec2, no download."""
        if str(name_or_folder) == "tiny":
            return cls(tiny_model(seed=0), layers)
        if Path(name_or_folder).is_absolute() and not Path(name_or_folder).is_dir():
            raise UserError(f"audio model {name_or_folder}: there is no such folder; give one, a hub id, or tiny")
        try:
            model, info = _pretrained(name_or_folder)
        except (OSError, ValueError, SafetensorError) as error:
            first_line = str(error).strip().split("\n")[0]
            raise UserError(
                f"audio model {name_or_folder}: {first_line} "
                "Give a folder with a wav2vec2 (config.json, model.safetensors), a hub id, or tiny."
            ) from error
        missing = sorted(set(info["missing_keys"]) - {"masked_spec_embed"})  # only used in its own pre-training
        if missing:
            raise UserError(f"audio model {name_or_folder}: {len(missing)} weights are missing, e.g. {missing[0]}")
        return cls(model, layers)

    def save(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors; `load(folder)` gives the same encoder, layers included."""
        self.model.config.emo_layers = self.layers
        with _no_progress_bars():
            self.model.save_pretrained(folder)

    def encode(self, sound: ByTime, frames: int, fps: float) -> np.ndarray:
        """sound float32 (S,) in -1..1 at 16 kHz -> float16 (F, L, D). Frame f is what is heard at f / fps seconds."""
        return Heard(self, sound, frames, fps)[np.arange(frames)]

    def block(self, sound: ByTime, frames: int, fps: float, piece: int) -> tuple[int, np.ndarray]:
        """Frames of one piece of the sound: (the first one's number, float16 (up to 8 s of frames, L, D))."""
        inside = np.flatnonzero(_piece_of(np.arange(frames), fps) == piece)
        begin = max(0, (piece * HOP_SECONDS - CONTEXT_SECONDS) * SAMPLE_RATE)
        # Of a sound that is shorter than its frames the rest is silence; two frames' worth is the least wav2vec2 takes.
        end = min(
            ((piece + 1) * HOP_SECONDS + CONTEXT_SECONDS) * SAMPLE_RATE,
            max(round(frames / fps * SAMPLE_RATE), SAMPLE_RATE // 10),
        )
        window = np.asarray(sound[begin:end], dtype=np.float32)
        hidden = self._hear(np.pad(window, (0, end - begin - len(window))))
        return int(inside[0]), _at_times(hidden, inside / fps - begin / SAMPLE_RATE, self.model.config)

    @torch.inference_mode()
    def _hear(self, window: np.ndarray) -> np.ndarray:
        """(samples,) -> float32 (T, L, D) at wav2vec2's own 50 Hz."""
        window = window - window.mean()
        window = window / max(float(np.sqrt(np.mean(window**2))), QUIETEST_RMS)
        values = torch.from_numpy(window)[None].to(self.model.device, self.model.dtype)
        states = self.model(values, output_hidden_states=True).hidden_states
        return torch.stack([states[layer][0] for layer in self.layers], dim=1).float().cpu().numpy()


class Heard:
    """What `AudioEncoder.encode` gives, listened to when it is asked for: an hour of it would be gigabytes.

    To be indexed like the array (F, L, D), by an array of frame numbers.
    """

    def __init__(self, encoder: AudioEncoder, sound: ByTime, frames: int, fps: float) -> None:
        self._encoder, self._sound, self._frames, self._fps = encoder, sound, frames, fps
        self._blocks: dict[int, tuple[int, np.ndarray]] = {}

    def __len__(self) -> int:
        return self._frames

    def __getitem__(self, numbers: np.ndarray) -> np.ndarray:
        """float16 (..., L, D) of frames (...)."""
        found = np.empty((*numbers.shape, len(self._encoder.layers), self._encoder.width), np.float16)
        pieces = _piece_of(numbers, self._fps)
        for piece in np.unique(pieces):
            first, block = self._block(int(piece))
            found[pieces == piece] = block[numbers[pieces == piece] - first]
        return found

    def _block(self, piece: int) -> tuple[int, np.ndarray]:
        if piece not in self._blocks:
            for old in list(self._blocks)[:-1]:  # a clip reaches into two at most
                del self._blocks[old]
            self._blocks[piece] = self._encoder.block(self._sound, self._frames, self._fps, piece)
        return self._blocks[piece]


def _piece_of(frames: np.ndarray, fps: float) -> np.ndarray:
    """Which piece of the sound each frame is heard in."""
    return (frames / fps // HOP_SECONDS).astype(int)


def _at_times(hidden: np.ndarray, times: np.ndarray, config: Wav2Vec2Config) -> np.ndarray:
    """(T, L, D) -> float16 (len(times), L, D), linear in time; T's own times are the centres of what each one hears."""
    stride, field = 1, 1
    for kernel, step in zip(config.conv_kernel, config.conv_stride, strict=True):
        field += (kernel - 1) * stride
        stride *= step
    position = np.clip((times * SAMPLE_RATE - (field - 1) / 2) / stride, 0, len(hidden) - 1)
    left = np.minimum(position.astype(int), max(len(hidden) - 2, 0))
    right = np.minimum(left + 1, len(hidden) - 1)
    share = (position - left)[:, None, None].astype(np.float32)
    return ((1 - share) * hidden[left] + share * hidden[right]).astype(np.float16)


def _pretrained(name_or_folder: str | Path) -> tuple[Wav2Vec2Model, dict[str, Any]]:
    """What is on this machine first: asking the hub about a cached model would make it need the network."""
    with _no_progress_bars():
        try:
            return Wav2Vec2Model.from_pretrained(name_or_folder, output_loading_info=True, local_files_only=True)
        except OSError:
            return Wav2Vec2Model.from_pretrained(name_or_folder, output_loading_info=True)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """transformers draws bars for files that take milliseconds; ours would be torn apart by them."""
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


def tiny_model(seed: int) -> Wav2Vec2Model:
    """A wav2vec2 of about 0.08 M parameters, the same for the same seed on every machine.

    Not in the paper: random weights that still let a linear map read how loud the voice is.

    The group normalisation's random biases do that: every channel bends at another level, so loudness survives the
    layer norms that follow as a direction. Ridge regression from one frame's features to the loudness of voices it
    never heard gives r = 0.93 (0.86 without the biases, 0.1 with `feat_extract_norm="layer"`).
    """
    config = Wav2Vec2Config(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=[40] * 7,
        feat_extract_norm="group",
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        layerdrop=0.0,
        mask_time_prob=0.0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Wav2Vec2Model(config)
    biases = model.feature_extractor.conv_layers[0].layer_norm.bias
    torch.nn.init.normal_(biases, std=0.5, generator=torch.Generator().manual_seed(seed))
    return model


def _fingerprint(model: Wav2Vec2Model) -> str:
    """sha256 (first 16 hex digits) of what decides a feature: architecture, weights and window."""
    shapes = ("hidden_size", "num_attention_heads", "conv_kernel", "conv_stride")
    norms = ("feat_extract_norm", "do_stable_layer_norm")
    decides = {key: getattr(model.config, key) for key in shapes + norms}
    decides["window"] = [HOP_SECONDS, CONTEXT_SECONDS, QUIETEST_RMS]
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True, default=list).encode())
    for name, weight in sorted(model.state_dict().items()):
        if name != "masked_spec_embed":
            digest.update(name.encode())
            digest.update(weight.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]
