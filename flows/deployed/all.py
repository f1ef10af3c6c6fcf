"""The flows with what their deployments say: how they are found and limited, and when they run by themselves."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from prefect import Flow

from flows.deployed.evaluate import evaluate
from flows.deployed.full import full
from flows.deployed.generate import generate
from flows.deployed.ingest import ingest
from flows.deployed.proof import proof
from flows.deployed.reaper import reaper
from flows.deployed.serve import serve
from flows.deployed.train import train


@dataclass(frozen=True)
class Deployed:
    """A flow as it is registered. at_a_time: runs of it; more wait. cron: a schedule that somebody has to switch on."""

    flow: Flow[..., Any]
    tags: Sequence[str]
    at_a_time: int | None = None
    cron: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)


DEPLOYED = (
    Deployed(ingest, ["data"], cron="0 3 * * *"),
    Deployed(train, ["gpu"]),
    Deployed(full, ["data", "gpu"]),
    Deployed(evaluate, ["gpu"]),
    Deployed(generate, ["service"]),
    Deployed(proof, ["gpu"], at_a_time=1),
    Deployed(serve, ["service"]),
    Deployed(reaper, ["care"], at_a_time=1, cron="*/5 * * * *"),
)
