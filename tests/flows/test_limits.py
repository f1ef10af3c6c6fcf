"""What waits for what, without a server that would have to be waited for."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from emo_data.errors import UserError
from flows.deployed import limits
from flows.forms.where import Where

HERE, CLUSTER = Where(), Where(cluster="http://head:8265", notes="/shared/jobs")


@pytest.fixture
def occupied(monkeypatch):
    """What is taken of a limit of four, within a run."""
    found: list[int] = []
    client = SimpleNamespace(read_global_concurrency_limit_by_name=lambda name: SimpleNamespace(limit=4))
    monkeypatch.setattr(limits.FlowRunContext, "get", lambda: "a run")
    monkeypatch.setattr(limits, "get_client", lambda sync_client: nullcontext(client))

    def concurrency(name, occupy, lease_duration):
        found.append(occupy)
        return nullcontext()

    monkeypatch.setattr(limits, "concurrency", concurrency)
    return found


@pytest.mark.parametrize(
    ("count", "device", "where", "taken"),
    [
        (2, "auto", HERE, [2]),
        (None, "auto", HERE, [4]),  # it will use all there are
        (2, "cpu", HERE, []),
        (64, "auto", CLUSTER, []),  # which has GPUs of its own
    ],
)
def test_gpus_of_this_machine_are_shared(occupied, count, device, where, taken):
    with limits.gpus(count, device, where):
        assert occupied == taken


def test_more_gpus_than_there_are_are_not_waited_for(occupied):
    with pytest.raises(UserError, match=r"5 GPUs .* limit emo-gpus is 4"), limits.gpus(5, "auto", HERE):
        pass
    assert occupied == []
