"""The service as a Ray Serve application: a front that answers, an inspector, and makers that have the models.

The front alone knows the journal. A job's folder is all that a maker knows, so it must be on a disk that all of them
see.
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterator
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

from emo_core.serving.api import create_app
from emo_core.serving.inspector import Models, Refused, inspect
from emo_core.serving.maker import Maker
from emo_core.serving.service import Limits, Lost, Service
from emo_core.serving.wish import Wish
from emo_data.cores import cores
from emo_data.on_ray import connected

_NEWS = 0.2
"""Seconds between two things that a maker tells of a job."""
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
    limits: Limits = Limits()


def build(settings: Settings) -> serve.Application:
    """The application, for a laptop as for a cluster. The token is EMO_TOKEN of the front's environment."""
    gpus = 0 if settings.device == "cpu" else 1
    inspector = serve.deployment(name="inspector", max_ongoing_requests=2, ray_actor_options={"num_cpus": 0})(Inspector)
    makers = serve.deployment(
        name="makers",
        max_ongoing_requests=1,
        graceful_shutdown_timeout_s=60,
        ray_actor_options={"num_cpus": 0 if gpus else 1, "num_gpus": gpus},
        autoscaling_config={
            "min_replicas": settings.makers,
            "max_replicas": max(settings.makers, settings.most_makers),
            "target_ongoing_requests": 1,
        },
    )(Makers)
    front = serve.deployment(name="front", max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0})(
        serve.ingress()(Front)
    )
    return front.bind(settings, inspector.bind(settings.models), makers.bind(settings.models, settings.device))


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

    async def __call__(self, folder: str, wish: Wish, max_seconds: float) -> int:
        """See `emo_core.serving.inspector.inspect`."""
        _, card = self._models.named(wish.model)
        return await asyncio.to_thread(inspect, Path(folder), wish, card, max_seconds)


class Makers:
    """One of them makes one video at a time."""

    def __init__(self, models: dict[str, str], device: str) -> None:
        os.nice(_NICE)
        self._maker = Maker(models, torch.device(device))

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
        models = Models.read(settings.models)
        self._service = Service(Path(settings.folder), models, Remote(inspector, makers), settings.limits)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(self._service, os.environ.get("EMO_TOKEN"))


class Remote:
    """`Hands` in other processes, on this machine or another."""

    def __init__(self, inspector: DeploymentHandle, makers: DeploymentHandle) -> None:
        self._inspector, self._makers = inspector, makers.options(stream=True)

    async def inspect(self, folder: Path, wish: Wish, max_seconds: float) -> int:
        """See `Hands`."""
        try:
            return await self._inspector.remote(str(folder), wish, max_seconds)
        except RayTaskError as error:
            raise _meant(error) from error
        except RayActorError as error:
            raise Refused(422, "portrait or audio: reading it ended the process that read it; it is damaged") from error

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
