"""What may run at the same time. Without a run of Prefect there is nobody to wait for."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound

from emo_data.errors import UserError
from flows.forms.where import Where

GPUS = "emo-gpus"
"""Name of the limit; how many there are is said by `emo flows serve --gpus`, or set on Prefect's page."""
_LEASE = 60.0
"""Seconds after which the places of a run that was killed are free."""


@contextmanager
def one_at_a_time(kind: str, place: str) -> Iterator[None]:
    """Wait until no other run writes this place."""
    if FlowRunContext.get() is None:
        yield
        return
    name = f"emo-{kind}-{hashlib.sha256(place.rstrip('/').encode()).hexdigest()[:12]}"
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(name, 1)
    with concurrency(name, lease_duration=_LEASE):
        yield


@contextmanager
def gpus(count: int | None, device: str, where: Where) -> Iterator[None]:
    """Wait for so many GPUs of this machine, None: for all; where there is a limit on them. A cluster's are Ray's to
    give. UserError where there never are so many."""
    if device == "cpu" or where.cluster or FlowRunContext.get() is None:
        yield
        return
    with get_client(sync_client=True) as client:
        try:
            there = client.read_global_concurrency_limit_by_name(GPUS).limit
        except ObjectNotFound:
            there = None
    if there is None:
        yield
        return
    wanted = max(there, 1) if count is None else count
    if wanted > there:
        raise UserError(
            f"{wanted} GPUs are asked for, and the limit {GPUS} is {there}: it would be waited for for ever"
        )
    with concurrency(GPUS, occupy=wanted, lease_duration=_LEASE):
        yield
