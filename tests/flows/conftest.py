"""What tests of the flows share: one server, some clips."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from emo_core.checkpoint import Card, Checkpoint, save
from emo_core.diffusion import noise_schedule
from emo_core.model.codec import LinearCodec
from emo_core.model.emo import build
from emo_data.features.audio import AudioEncoder
from emo_data.synthetic import write_sample
from tests.emo_core.runs import smallest_config
from tests.flows.server import Flows

os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["DO_NOT_TRACK"] = "1"


BUCKETS = ([0.0, 1.0, 2.0], [1.0, 1.0, 1.0])


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flows]:
    """`emo flows serve`, which ends with all that it started."""
    flows = Flows(tmp_path_factory.mktemp("flows"))
    yield flows
    assert flows.end() == []


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips of two people, two seconds each."""
    folder = tmp_path_factory.mktemp("heads") / "sample"
    write_sample(folder, clips=4, seconds=2, seed=3, looks=2, size=128)
    return folder / "clips"


@pytest.fixture(scope="session")
def asked(clips: Path) -> dict[str, object]:
    """The form of an ingestion of them, without a place for the dataset."""
    return form_of(clips)


@pytest.fixture(scope="session")
def long_asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The form of an ingestion of 24 clips: there is a middle of it to be disturbed in, on a fast machine as well."""
    folder = tmp_path_factory.mktemp("heads") / "sample"
    write_sample(folder, clips=24, seconds=2, seed=4, looks=2, size=128)
    return form_of(folder / "clips")


@pytest.fixture(scope="session")
def serviceable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest model that a service takes."""
    encoder = AudioEncoder.load("tiny")
    config = smallest_config(len(encoder.layers), encoder.width)
    torch.manual_seed(0)
    model = build(config, 3, BUCKETS).eval()
    codec = LinearCodec.fit(torch.rand(4, 3, 32, 32) * 2 - 1, config.codec_downscale, config.latent_channels)
    card = Card(stage=3, config=config, audio_fingerprint=encoder.fingerprint, speed_buckets=BUCKETS, lineage=["", ""])
    folder = tmp_path_factory.mktemp("serviceable") / "model"
    save(Checkpoint(card, model, codec, noise_schedule("sample"), encoder), folder)
    return folder


@pytest.fixture(scope="session")
def data(asked: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The dataset of the four clips."""
    return undisturbed_dataset(asked, 4, tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="session")
def long_data(long_asked: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The dataset of the 24 clips."""
    return undisturbed_dataset(long_asked, 24, tmp_path_factory.mktemp("plain"))


def form_of(clips: Path) -> dict[str, object]:
    return {
        "sources": [str(clips)],
        "size": 80,
        "audio_model": "tiny",
        "min_seconds": 1,
        "identity_pattern": r"^(look\d+)_",
        "test_share": 0.5,
    }


def undisturbed_dataset(asked: dict[str, object], clips: int, folder: Path) -> str:
    """As a plain call of the flow's function makes it: no server, no run."""
    from flows.deployed.ingest import ingest
    from flows.forms.ingest import IngestForm
    from flows.forms.where import Where

    form = IngestForm.model_validate({**asked, "out": str(folder / "data"), "workers": 0})
    result = ingest.fn(form, Where(notes=str(folder / "jobs")))
    assert result["clips"] == clips
    return str(folder / "data")
