"""Training runs of a few steps on a handful of made-up clips."""

import io
from pathlib import Path

import numpy as np
import torch

from emo_core.checkpoint import at_hand, load
from emo_core.model.config import ModelConfig, tiny
from emo_core.training.plan import plan
from emo_core.training.prepare import prepare as prepare_plan
from emo_core.training.recipes import Recipe, stage_recipe
from emo_core.training.record import read_metrics
from emo_core.training.run import carry_out
from emo_data.dataset.index import ClipIndex
from emo_data.features.audio import AudioEncoder
from emo_data.film import encode_video
from emo_data.objects import Folder
from emo_data.schema import SAMPLE_RATE
from emo_data.store import Dataset

CPU = torch.device("cpu")


def smallest_config(audio_layers: int = 2, audio_width: int = 8) -> ModelConfig:
    """32 x 32 pixels, two resolutions, a handful of channels."""
    return tiny(audio_layers, audio_width).model_copy(
        update={
            "size": 32,
            "latent_channels": 3,
            "codec_downscale": 8,
            "channels": (8, 16),
            "attention": (True, True),
            "heads": 2,
            "norm_groups": 4,
            "audio_hidden": 8,
            "audio_token_width": 8,
            "frames": 3,
            "motion_frames": 2,
            "temporal_heads": 2,
            "locator_channels": (4, 4, 4, 4),
            "speed_width": 8,
        }
    )


def clip_ids(index: ClipIndex) -> list[str]:
    """Of the clips that a stage may learn from, in the index's order."""
    return [index.read(clip, ["clip_id"])["clip_id"] for clip in range(len(index))]


def row(index: int, encoder: AudioEncoder, size: int) -> dict:
    """A clip of 24 frames in which a bright square moves."""
    frames = 24
    pictures = np.full((frames, size, size, 3), 40 + 20 * index, np.uint8)
    for f in range(frames):
        pictures[f, 8:20, f % (size - 8) : f % (size - 8) + 8] = (200, 150, 90)
    video = io.BytesIO()
    encode_video(video, pictures, 25)
    sound = np.sin(np.arange(round(frames / 25 * SAMPLE_RATE)) * 0.05 * (index + 1)).astype(np.float32) * 0.3
    vectors = np.zeros((frames, 3), np.float32)
    return {
        "clip_id": f"clip{index}",
        "source": f"{index}.mp4",
        "source_sha256": str(index),
        "start_seconds": 0.0,
        "end_seconds": frames / 25,
        "identity": f"who{index}",
        "split": "train",
        "fps": 25.0,
        "size": size,
        "frames": frames,
        "video": video.getvalue(),
        "sound": (sound * 32767).astype(np.int16),
        "sound_state": "voice",
        "box": np.tile(np.float32([0.25, 0.25, 0.75, 0.75]), (frames, 1)),
        "rotation": vectors,
        "translation": vectors,
        "speed": np.full(frames, 0.3 * (index + 1), np.float32),
        "mouth_opening": np.zeros(frames, np.float32),
        "audio_features": encoder.encode(sound, frames, 25).reshape(-1),
        "audio_layers": np.array(encoder.layers, np.int32),
        "audio_width": encoder.width,
        "audio_extractor": encoder.fingerprint,
        "detection_rate": 1.0,
        "face_size": 16.0,
        "sharpness": 1.0,
        "blur": 0.3,
        "brightness": 1.0,
        "yaw_range": 1.0,
        "loudness": -10.0,
        "speech_ratio": 1.0,
        "mouth_sound_correlation": 0.5,
        "sync_offset": None,
        "sync_confidence": None,
        "tools": "{}",
    }


def make_dataset(folder: str, encoder: AudioEncoder, size: int, **columns: object) -> str:
    """Three clips in a dataset."""
    dataset = Dataset.create(folder, {"fps": 25.0, "size": size, "audio_model": "tiny"})
    for index in range(3):
        dataset.write_source(str(index), f"{index}.mp4", str(index), [row(index, encoder, size) | columns], [])
    return folder


def prepare(recipe: Recipe, data: str, out: Path, init: Path | None, device: torch.device, weights=None, cache=None):
    """A trainer in this process."""
    return prepare_plan(plan(recipe, data, out, init, weights, cache), device)


def metrics(folder: Path) -> list[dict]:
    """The lines of a run's metrics.jsonl."""
    return read_metrics(Folder(str(folder)))


def recipe(stage: int, steps: int = 6, **changes: object) -> Recipe:
    """A few steps that save often."""
    small = {"steps": steps, "batch": 2, "micro_batch": 2, "checkpoint_every": 3, "preview_every": 100}
    return stage_recipe(stage, "tiny").model_copy(update={**small, **changes})


def finished(stage: int, data: str, folder: Path, init: Path | None = None, **changes: object) -> Path:
    """The model of a finished run."""
    carry_out(plan(recipe(stage, **changes), data, folder, init), CPU)
    return folder / "model"


def weights(model: Path) -> dict[str, torch.Tensor]:
    """All trained weights of a model folder."""
    return load(model).model.state_dict()


def losses(run: str | Path) -> list[float]:
    """The losses of a run."""
    return [line["loss"] for line in read_metrics(Folder(str(run)))]


def names(run: str | Path) -> list[str]:
    """What a finished run holds, hidden files included; an event file's name has the time in it."""
    folder = Folder(str(run))
    found = [str(path.relative_to(run)) for path in Path(run).rglob("*")] if folder.local else folder.all_names()
    return sorted({name if "events" not in name else "tensorboard/events" for name in found})


def same_weights(one: str | Path, other: str | Path) -> bool:
    """Whether two models are the same to the last bit."""
    with at_hand(one) as first, at_hand(other) as second:
        left, right = weights(first), weights(second)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
