"""The service as a Ray Serve application: a front that answers, an inspector, and makers that have the models.

The front alone knows the journal. A job's folder is all that a maker knows, so it must be on a disk that all of them
see.
"""

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.config import HTTPOptions
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ReplicaState

from emo_core.serving.api import create_app
from emo_core.serving.inspector import Models, Refused, inspect, look
from emo_core.serving.log import log_to
from emo_core.serving.maker import Maker
from emo_core.serving.service import Limits, Lost, Service
from emo_core.serving.wish import Look, Wish
from emo_data.cores import cores
from emo_data.errors import UserError
from emo_data.on_ray import connected
from emo_data.synthetic import write_trial

_NEWS = 0.5
"""Seconds between two things that a maker tells of a job."""
_TOO_LONG = 60
"""Seconds that nothing takes to be looked at which is well: what takes longer has caught its process."""
_NICE = 10
"""What answers goes before what computes."""


class Settings(BaseModel):
    """What a deployment is told. Unknown names are errors."""

    model_config = ConfigDict(extra="forbid")

    models: dict[str, str] = Field(min_length=1, description="the allow-list: folders, or places in a store, by id")
    folder: str = Field(description="for jobs; every node must see it")
    device: str = Field("cpu", description="that the makers compute on, as torch names it")
    makers: int = Field(1, ge=1, description="at least")
    most_makers: int = Field(1, ge=1, description="at most: as many as jobs wait, in between")
    at_a_time: int | None = Field(
        None, ge=1, description="jobs of each maker, in the same denoising steps; by default 1 on a CPU, else 2"
    )
    open_to_all: bool = Field(False, description="without EMO_TOKEN: on the loopback of one machine alone")
    limits: Limits = Limits()


def build(settings: Settings) -> serve.Application:
    """The application, for a laptop as for a cluster. The token is EMO_TOKEN of the front's environment. UserError for
    what is no model, which is said before anything that runs makes room."""
    Models.read(settings.models)
    gpus = 0 if settings.device == "cpu" else 1
    at_a_time = settings.at_a_time or 1 + gpus
    inspector = serve.deployment(name="inspector", max_ongoing_requests=2, ray_actor_options={"num_cpus": 0})(Inspector)
    makers = serve.deployment(
        name="makers",
        max_ongoing_requests=at_a_time,
        graceful_shutdown_timeout_s=60,
        ray_actor_options={"num_cpus": 0 if gpus else 1, "num_gpus": gpus},
        autoscaling_config={
            "min_replicas": settings.makers,
            "max_replicas": max(settings.makers, settings.most_makers),
            "target_ongoing_requests": at_a_time,
        },
    )(Makers)
    front = serve.deployment(name="front", max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0})(
        serve.ingress()(Front)
    )
    made_by = makers.bind(settings.models, settings.device, at_a_time)
    return front.bind(settings, inspector.bind(settings.models), made_by)


@contextmanager
def serve_here(settings: Settings, host: str, port: int) -> Iterator[None]:
    """A Ray of our own with the application in it, while the block runs."""
    with connected("local", max(cores(), settings.most_makers, settings.makers)):
        serve.start(http_options=HTTPOptions(host=host, port=port))
        try:
            serve.run(build(settings), name="emo", route_prefix="/")
            yield
        finally:
            serve.shutdown()


class Inspector:
    """Opens what clients send. Whatever that does to a process, it does to this one."""

    def __init__(self, models: dict[str, str]) -> None:
        self._models = Models.read(models)
        self._since: dict[object, float] = {}

    def check_health(self) -> None:
        """As Serve asks for it: an inspector that does not come back from a file is replaced by another."""
        if any(time.monotonic() - since > _TOO_LONG for since in list(self._since.values())):
            raise TimeoutError(f"a file has been looked at for more than {_TOO_LONG} s")

    async def inspect(self, folder: str, wish: Wish, max_seconds: float) -> int:
        """See `emo_core.serving.inspector.inspect`."""
        _, card = self._models.named(wish.model)
        return await self._timed(inspect, Path(folder), wish, card, max_seconds)

    async def look(self, folder: str, wish: Wish) -> Look:
        """See `emo_core.serving.inspector.look`."""
        _, card = self._models.named(wish.model)
        return await self._timed(look, Path(folder), wish, card)

    async def draw_samples(self, folder: str) -> None:
        """See `emo_data.synthetic.write_trial`."""
        await self._timed(write_trial, Path(folder))

    async def _timed(self, work: Callable[..., Any], *given: Any) -> Any:
        mark = object()
        self._since[mark] = time.monotonic()

        def timed() -> Any:
            try:
                return work(*given)
            finally:  # here, for who asked may go away while the file is still looked at
                del self._since[mark]

        return await asyncio.to_thread(timed)


class Makers:
    """See `emo_core.serving.maker`."""

    def __init__(self, models: dict[str, str], device: str, at_a_time: int) -> None:
        os.nice(_NICE)
        self._maker = Maker(models, torch.device(device), at_a_time)

    def check_health(self) -> None:
        """As Serve asks for it."""
        self._maker.check_health()

    async def __call__(self, folder: str, wish: Wish) -> AsyncIterator[float]:
        """See `emo_core.serving.maker.Maker.make`: shares that are done."""
        stop, share = threading.Event(), 0.0

        def tell(now: float) -> None:
            nonlocal share
            share = now

        work = asyncio.create_task(asyncio.to_thread(self._maker.make, Path(folder), wish, tell, stop))
        try:
            while not work.done():
                yield share
                await asyncio.wait([work], timeout=_NEWS)
            work.result()
        finally:
            stop.set()
            await asyncio.wait([work])  # else the next job would meet this one


class Front:
    """Answers. There is one, for it alone writes the journal."""

    def __init__(self, settings: Settings, inspector: DeploymentHandle, makers: DeploymentHandle) -> None:
        token = os.environ.get("EMO_TOKEN") or None
        if not (token or settings.open_to_all):
            raise UserError(
                "set EMO_TOKEN in the environment of Ray's nodes: without it everybody could use the service"
            )
        self._token = token
        models = Models.read(settings.models)
        Path(settings.folder).mkdir(parents=True, exist_ok=True)
        log_to(Path(settings.folder) / "log.jsonl")
        hands = Remote(inspector, makers, serve.get_replica_context().app_name)
        self._service = Service(Path(settings.folder), models, hands, settings.limits)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(self._service, self._token)


class Remote:
    """`Hands` in other processes, on this machine or another."""

    def __init__(self, inspector: DeploymentHandle, makers: DeploymentHandle, application: str) -> None:
        self._inspector, self._makers, self._application = inspector, makers.options(stream=True), application

    async def inspect(self, folder: Path, wish: Wish, max_seconds: float) -> int:
        """See `Hands`."""
        return await self._inspected(self._inspector.inspect, str(folder), wish, max_seconds)

    async def look(self, folder: Path, wish: Wish) -> Look:
        """See `Hands`."""
        return await self._inspected(self._inspector.look, str(folder), wish)

    async def draw_samples(self, folder: Path) -> None:
        """See `Hands`."""
        await self._inspected(self._inspector.draw_samples, str(folder))

    async def _inspected(self, ask: DeploymentHandle, *given: Any) -> Any:
        for last in (False, True):
            try:
                return await ask.remote(*given)
            except RayTaskError as error:
                raise _meant(error) from error
            except RayActorError as error:  # another's file may have ended it, so once does not count
                if last:
                    said = "portrait or audio: reading it ended the process that read it, twice; it is damaged"
                    raise Refused(422, said) from error

    async def ready(self) -> bool:
        """See `Hands`."""
        status = await asyncio.to_thread(serve.status)
        makers = status.applications[self._application].deployments["makers"]
        return any(count for state, count in makers.replica_states.items() if state == ReplicaState.RUNNING)

    async def make(self, folder: Path, wish: Wish) -> AsyncIterator[float]:
        """See `Hands`."""
        shares: Any = self._makers.remote(str(folder), wish)
        try:
            async for share in shares:
                yield share
        except RayTaskError as error:
            raise _meant(error) from error
        except RayActorError as error:
            raise Lost from error
        finally:
            shares.cancel()


def _meant(error: RayTaskError) -> Exception:
    return error.cause if isinstance(error.cause, Refused) else error
