"""Sources for everything that is killed, starved or cut off."""

import pytest

from emo_data.synthetic import write_sample
from tests.emo_core.conftest import config, data, encoder, model_folder, smallest  # noqa: F401 - fixtures
from tests.emo_data.kills import NOBODY, content, make_sources, run_ingest, writes


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chaos") / "sample"
    write_sample(folder, clips=4, seconds=4, seed=1, size=192)
    return sorted((folder / "clips").glob("look*.mp4"))


@pytest.fixture(scope="session")
def sources(clips, tmp_path_factory):
    return make_sources(clips, tmp_path_factory.mktemp("chaos") / "in")


@pytest.fixture(scope="session")
def undisturbed(sources, tmp_path_factory):
    """(content of the dataset, names that were written in order)."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run_ingest([str(sources)], str(folder / "data"), folder, NOBODY, workers=0) == 0
    return content(str(folder / "data")), [name for _, name in writes(folder)]
