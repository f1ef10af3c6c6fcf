"""What tests of the flows share: one server, some clips."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from emo_data.synthetic import write_sample
from tests.flows.server import Flows

os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["DO_NOT_TRACK"] = "1"


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
    return {
        "sources": [str(clips)],
        "size": 80,
        "audio_model": "tiny",
        "min_seconds": 1,
        "identity_pattern": r"^(look\d+)_",
        "test_share": 0.5,
    }


@pytest.fixture(scope="session")
def data(asked: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Their dataset, as a plain call of the flow's function makes it: no server, no run."""
    from flows.deployed.ingest import ingest
    from flows.forms.ingest import IngestForm
    from flows.forms.where import Where

    folder = tmp_path_factory.mktemp("plain")
    form = IngestForm.model_validate({**asked, "out": str(folder / "data"), "workers": 0})
    result = ingest.fn(form, Where(notes=str(folder / "jobs")))
    assert result["clips"] == 4
    return str(folder / "data")
