"""Sample clips with known truth, and what ingestion makes of them."""

import json
import wave
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from emo_data.ingest.config import IngestConfig
from emo_data.ingest.run import IngestSummary, ingest
from emo_data.store import Dataset
from emo_data.synthetic import write_sample

CONFIG = IngestConfig(size=128, audio_model="tiny", identity_pattern="^(look[0-9]+)_", test_share=0.5)


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ingested") / "sample"
    write_sample(folder, clips=4, seconds=4, seed=1, size=192)
    return folder


@pytest.fixture(scope="session")
def truth(sample: Path) -> dict[str, dict[str, np.ndarray]]:
    """File name -> box (F, 4), rotation (F, 3), mouth_opening (F,)."""
    told = json.loads((sample / "truth.json").read_text())
    names = ("box", "rotation", "mouth_opening")
    return {name: {key: np.array(clip[key]) for key in names} for name, clip in told.items()}


@pytest.fixture(scope="session")
def ingested(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, IngestSummary, list[str]]:
    """The sample's clips, a copy of one of them under a later name, and a file that is no video."""
    copy = sample / "clips" / "look9_copy.mp4"
    copy.write_bytes((sample / "clips" / "look0_000.mp4").read_bytes())
    (sample / "clips" / "broken.mp4").write_text("this is no video")
    out, told = str(tmp_path_factory.mktemp("dataset") / "data"), []
    summary = ingest([str(sample / "clips")], out, CONFIG, phase=telling(told))
    return Dataset.open(out), summary, told


def telling(told):
    """A phase that writes down all that is said: (phase, done, total, note)."""

    @contextmanager
    def phase(name):
        yield lambda done, total, note: told.append((name, done, total, note))

    return phase


@pytest.fixture(scope="session")
def rows(ingested) -> dict[str, dict[str, object]]:
    """File name -> its one row."""
    dataset, _, _ = ingested
    places, table = dataset.clips(["source"])
    names = [Path(source).name for source in table.column("source").to_pylist()]
    from emo_data.schema import CLIP_SCHEMA

    return {name: dataset.read_clip(place, CLIP_SCHEMA.names) for name, place in zip(names, places, strict=True)}


def write_wave(path, samples, rate=16_000, channels=1):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.repeat((samples * 32767).astype("<i2"), channels).tobytes())
