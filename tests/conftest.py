"""What tests of several packages share."""

import os
from pathlib import Path

import pytest

# Threads that spin while they wait for each other are many times slower than one on busy cores.
os.environ["OMP_WAIT_POLICY"] = "passive"
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real clips, portraits and sounds. They may not be handed on, so a checkout can be without them."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("EMO_TEST_DATA", beside))
    if not (folder / "video").is_dir():
        pytest.skip(f"no real clips in {folder}; set EMO_TEST_DATA to where they are")
    return folder
