"""Real Ray: a pool that looks and a pool that listens give the same dataset as one process."""

import logging

import pytest

from emo_data.ingest.config import IngestConfig
from emo_data.ingest.on_ray import ray_crew
from emo_data.ingest.run import ingest
from tests.emo_data.conftest import telling
from tests.emo_data.kills import content


@pytest.fixture(scope="module")
def cluster():
    """A Ray that believes it has a GPU; what listens there finds none, and takes the processor."""
    import ray

    ray.init("local", num_cpus=3, num_gpus=1, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    yield
    ray.shutdown()


def test_two_pools_give_what_one_process_gives(cluster, sample, tmp_path):
    config = IngestConfig(size=64, audio_model="tiny", test_share=0)
    told = []
    for name, crew in {"alone": None, "pools": ray_crew(1, "local", listeners=1)}.items():
        chosen = {"crew": crew} if crew else {}
        summary = ingest([str(sample / "clips")], str(tmp_path / name), config, phase=telling(told), **chosen)
        assert summary.clips == 4
    assert content(str(tmp_path / "alone")) == content(str(tmp_path / "pools"))
    assert told[-1][1:3] == (16, 16)
