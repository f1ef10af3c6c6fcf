"""What tests of several packages share."""

import os
from pathlib import Path

import pytest

# Threads that spin while they wait for each other are many times slower than one on busy cores.
os.environ["OMP_WAIT_POLICY"] = "passive"
os.environ["OMP_NUM_THREADS"] = "1"
# Ray's workers are nice, by default, to whoever else wants the cores: here that is another test, for minutes.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray spells it so

LONG = ("test_workers", "test_training", "test_kills", "test_service_on_ray", "test_studio", "test_whole_road")
"""Files that take minutes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that of several processes none is left alone with one at the end."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real clips, portraits and sounds. They may not be handed on, so a checkout can be without them."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("EMO_TEST_DATA", beside))
    if not (folder / "video").is_dir():
        pytest.skip(f"no real clips in {folder}; set EMO_TEST_DATA to where they are")
    return folder
