"""Training runs of a few steps on a handful of made-up clips."""

import io
import json
from pathlib import Path

import numpy as np
import torch

from emo_core.checkpoint import load
from emo_core.training.prepare import plan
from emo_core.training.prepare import prepare as prepare_plan
from emo_core.training.recipes import Recipe, stage_recipe
from emo_data.features.audio import AudioEncoder
from emo_data.schema import SAMPLE_RATE
from emo_data.store import Dataset
from emo_data.video import encode_video

CPU = torch.device("cpu")


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
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def recipe(stage: int, steps: int = 6, **changes: object) -> Recipe:
    """A few steps that save often."""
    small = {"steps": steps, "batch": 2, "micro_batch": 2, "checkpoint_every": 3, "preview_every": 100}
    return stage_recipe(stage, "tiny").model_copy(update={**small, **changes})


def finished(stage: int, data: str, folder: Path, init: Path | None = None, **changes: object) -> Path:
    """The model of a finished run."""
    trainer = prepare(recipe(stage, **changes), data, folder, init, CPU)
    trainer.train()
    return Path(trainer.run.model)


def weights(model: Path) -> dict[str, torch.Tensor]:
    """All trained weights of a model folder."""
    return load(model).model.state_dict()
