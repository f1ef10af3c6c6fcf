"""Tell a Prefect server of the flows, and run what it is asked for."""

import asyncio
import os
import signal

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import EntrypointType, RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.runner import Runner
from prefect.schedules import Cron
from prefect.settings import get_current_settings

from emo_data.errors import UserError
from flows.deployed.all import DEPLOYED, Deployed
from flows.deployed.limits import GPUS
from flows.secrets import ObjectStore

NAME = "emo"
"""Of what is served here: ingest/emo, train/emo…"""
_POLL = 2.0
"""Seconds between two questions whether there is something to do."""


def serve(at_a_time: int, gpus: int | None) -> None:
    """Register all flows and run them on this machine, until the process is told to stop; it then cancels its runs.

    at_a_time: runs; more wait. gpus: that runs of training share; None leaves their limit as it is.
    """
    _prepare(gpus)
    # Whether a schedule is on is decided by people, not by this process' end.
    runner = Runner(NAME, query_seconds=_POLL, limit=at_a_time, pause_on_shutdown=False)
    for deployed in DEPLOYED:
        runner.add_deployment(described(deployed))
    asyncio.run(_until_told(runner))


async def _until_told(runner: Runner) -> None:
    """Run; when told to end, cancel what runs first. What Prefect does by itself at SIGTERM is to leave it."""
    work = asyncio.create_task(runner.start())
    while not (runner.started or work.done()):
        await asyncio.sleep(0.1)
    loop, ending = asyncio.get_running_loop(), list[asyncio.Task[None]]()

    def end() -> None:
        if not ending:  # once: it is on its way
            ending.append(loop.create_task(runner.astop()))

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)
    await work


def deploy(pool: str, image: str | None, gpus: int | None) -> list[str]:
    """Register all flows for a work pool, and by its name: its workers have this release. Returns their names.

    A worker that starts processes starts them in this folder. Elsewhere what a run writes to a relative path goes with
    its container; without a word such a worker, too, takes an empty folder and removes it. UserError without the pool.
    """
    _prepare(gpus)
    starts_here = _kind(pool) == "process"
    names = []
    for deployed in DEPLOYED:
        made = described(deployed, pool)
        made.job_variables = {"working_dir": os.getcwd()} if starts_here else {}
        made.apply(work_pool_name=pool, image=image)
        names.append(made.full_name)
    return names


def described(deployed: Deployed, name: str = NAME) -> RunnerDeployment:
    """As the server is told. A schedule is told once: later it is what people made of it."""
    limit = deployed.at_a_time
    schedule = Cron(deployed.cron, active=False, slug="by-itself") if deployed.cron else None
    return RunnerDeployment.from_flow(
        deployed.flow,
        name,
        schedule=None if _there(f"{deployed.flow.name}/{name}") else schedule,
        parameters=deployed.parameters,
        tags=[NAME, *deployed.tags],
        concurrency_limit=limit
        and ConcurrencyLimitConfig(limit=limit, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE),
        entrypoint_type=EntrypointType.MODULE_PATH,  # by import: wherever this release is installed
    )


def _kind(pool: str) -> str:
    with get_client(sync_client=True) as client:
        try:
            return client.read_work_pool(pool).type
        except ObjectNotFound as error:
            make = f"prefect work-pool create {pool} --type process"
            raise UserError(f"--pool {pool}: there is none of this name; `{make}` makes it") from error


def _there(deployment: str) -> bool:
    with get_client(sync_client=True) as client:
        try:
            client.read_deployment_by_name(deployment)
        except ObjectNotFound:
            return False
        return True


def _prepare(gpus: int | None) -> None:
    """UserError where there is no server that takes us."""
    url = get_current_settings().api.url
    if not url:
        raise UserError("PREFECT_API_URL is not set: it must name a Prefect server, like http://127.0.0.1:4200/api")
    try:
        with get_client(sync_client=True) as client:
            client.api_version()
    except httpx.HTTPError as error:
        raise UserError(f"PREFECT_API_URL {url}: no Prefect server that lets us in: {error}") from error
    ObjectStore.register_type_and_schema()
    if gpus is not None:
        with get_client(sync_client=True) as client:
            client.upsert_global_concurrency_limit_by_name(GPUS, gpus)
