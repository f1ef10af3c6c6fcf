"""The service over HTTP: what is asked for, what is answered, and who may ask."""

import asyncio
import contextlib
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Form, Header, HTTPException, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict

from emo_core.serving.inspector import Refused
from emo_core.serving.service import Busy, Service
from emo_core.serving.wish import Job, State, Wish

_BESIDE = 2**20
"""Bytes of a request that are not in its two files."""
_HEARTBEAT = 15.0
"""Seconds without news after which a stream of events says that it is still there."""
Key = Annotated[str | None, Header(alias="Idempotency-Key", max_length=200, description="the same key: the same job")]


class Asked(Wish):
    """The form of a request."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    portrait: UploadFile
    audio: UploadFile

    def wish(self) -> Wish:
        """Without the files."""
        return Wish.model_validate(self.model_dump(include=set(Wish.model_fields)))


class Status(BaseModel):
    """Of a job."""

    id: str
    state: State
    progress: float
    frames_done: int
    frames_total: int
    error: str | None

    @classmethod
    def of(cls, job: Job) -> "Status":
        """What a client is told of it."""
        return cls(progress=round(job.progress, 4), **job.model_dump(include=set(cls.model_fields) - {"progress"}))


class Model(BaseModel):
    """One of the allow-list."""

    id: str
    stage: int
    pixels: int
    knows_speeds: bool


class Problem(BaseModel):
    """What was wrong, in a sentence."""

    detail: str


_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "not a request of this kind"},
    401: {"model": Problem, "description": "no token, or another"},
    413: {"model": Problem, "description": "a file is too large, or its sound too long"},
    415: {"model": Problem, "description": "the portrait is no picture"},
    422: {"model": Problem, "description": "something is wrong with the portrait, the sound or a field"},
    429: {"model": Problem, "description": "full; Retry-After says when to ask again"},
}
_UNKNOWN: dict[int | str, dict[str, Any]] = {
    401: _PROBLEMS[401],
    404: {"model": Problem, "description": "no such job, or no longer"},
}


def create_app(service: Service, token: str | None) -> FastAPI:
    """token: what a client must show; None lets everybody in, which suits the loopback alone."""
    bearer = HTTPBearer(auto_error=False)

    def allowed(shown: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
        if token is not None and (shown is None or not hmac.compare_digest(shown.credentials, token)):
            raise HTTPException(401, "a bearer token is needed", {"WWW-Authenticate": "Bearer"})

    app = FastAPI(title="Open EMO", version=version("open-emo"), description="One portrait and a voice become a video.")
    app.add_middleware(Sized, most=service.limits.portrait_bytes + service.limits.sound_bytes + _BESIDE)
    for kind, answer in ((Refused, _refused), (Busy, _busy), (RequestValidationError, _invalid)):
        app.add_exception_handler(kind, answer)  # type: ignore[arg-type]
    guarded: dict[str, Any] = {"dependencies": [Depends(allowed)]}

    @app.post("/v1/jobs", status_code=202, responses=_PROBLEMS, **guarded)
    async def submit(asked: Annotated[Asked, Form(media_type="multipart/form-data")], key: Key = None) -> Status:
        """Have a video made. The answer comes at once; `GET /v1/jobs/{id}` tells how far it is."""
        return Status.of(await service.submit(asked.portrait, asked.audio, asked.wish(), key))

    @app.post("/v1/videos", responses={200: _MP4, **_PROBLEMS}, response_class=FileResponse, **guarded)
    async def make(
        request: Request, asked: Annotated[Asked, Form(media_type="multipart/form-data")], key: Key = None
    ) -> Response:
        """Have a video of a short sound made, and wait for it. Who hangs up does not want it any more."""
        job = await service.submit(asked.portrait, asked.audio, asked.wish(), key, service.limits.short_seconds)
        try:
            job = await _until_over(service, job, request)
        except asyncio.CancelledError:
            await service.cancel(job.id)
            raise
        return _video(service, job)

    @app.get("/v1/models", responses={401: _PROBLEMS[401]}, **guarded)
    async def models() -> list[Model]:
        """Who may speak; the first is taken where none is named."""
        return [
            Model(id=name, stage=card.stage, pixels=card.config.size, knows_speeds=card.speed_buckets is not None)
            for name, card in service.models.cards.items()
        ]

    @app.get("/v1/jobs/{job}", responses=_UNKNOWN, **guarded)
    async def status(job: str) -> Status:
        """How far a job is."""
        return Status.of(_existing(service, job))

    @app.get("/v1/jobs/{job}/events", responses={200: _EVENTS, **_UNKNOWN}, response_class=StreamingResponse, **guarded)
    async def events(job: str) -> Response:
        """The same whenever there is something new, as server-sent events, to the job's end."""
        _existing(service, job)
        return StreamingResponse(_events(service, job), media_type="text/event-stream")

    @app.get(
        "/v1/jobs/{job}/video",
        responses={200: _MP4, 409: {"model": Problem, "description": "it is not done"}, **_UNKNOWN},
        response_class=FileResponse,
        **guarded,
    )
    async def video(job: str) -> Response:
        """The result."""
        return _video(service, _existing(service, job))

    @app.delete("/v1/jobs/{job}", responses=_UNKNOWN, **guarded)
    async def cancel(job: str) -> Status:
        """Nobody wants it any more. What is over stays as it is."""
        _existing(service, job)
        await service.cancel(job)
        return Status.of(_existing(service, job))

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    return app


_MP4: dict[str, Any] = {"content": {"video/mp4": {}}, "description": "the video"}
_EVENTS: dict[str, Any] = {"content": {"text/event-stream": {}}, "description": "states of the job, as JSON"}


def _existing(service: Service, job: str) -> Job:
    found = service.get(job)
    if found is None:
        raise HTTPException(404, "there is no such job, or no longer")
    return found


def _video(service: Service, job: Job) -> Response:
    if job.state == State.FAILED:
        raise HTTPException(409, f"it failed: {job.error}")
    if job.state != State.DONE:
        raise HTTPException(409, f"it is {job.state}")
    return FileResponse(service.video(job), media_type="video/mp4", filename=f"{job.id}.mp4")


async def _until_over(service: Service, job: Job, request: Request) -> Job:
    while not job.state.over:
        try:
            await asyncio.wait_for(service.changed(job.id), timeout=0.5)
        except TimeoutError:
            if await request.is_disconnected():
                await service.cancel(job.id)
        job = _existing(service, job.id)
    return job


async def _events(service: Service, job: str) -> AsyncIterator[str]:
    told = None
    while (now := service.get(job)) is not None:
        said = Status.of(now).model_dump_json()
        if said != told:
            yield f"data: {said}\n\n"
            told = said
        if now.state.over:
            return
        try:
            await asyncio.wait_for(service.changed(job), timeout=_HEARTBEAT)
        except TimeoutError:
            yield ": still here\n\n"


async def _refused(_: Request, refused: Refused) -> Response:
    return JSONResponse({"detail": refused.sentence}, refused.status)


async def _busy(_: Request, busy: Busy) -> Response:
    return JSONResponse({"detail": "full; ask again later"}, 429, {"Retry-After": str(busy.after)})


async def _invalid(_: Request, error: RequestValidationError) -> Response:
    said = "; ".join(
        f"{'.'.join(str(part) for part in one['loc'][1:]) or 'request'}: {one['msg'].removeprefix('Value error, ')}"
        for one in error.errors()
    )
    return JSONResponse({"detail": said}, 422)


_Message = MutableMapping[str, Any]


class Sized:
    """ASGI middleware that ends a request which is larger than any that is taken, before it fills the disk."""

    def __init__(self, app: Callable[..., Awaitable[None]], most: int) -> None:
        self._app, self._most = app, most

    async def __call__(
        self,
        scope: _Message,
        receive: Callable[[], Awaitable[_Message]],
        send: Callable[[_Message], Awaitable[None]],
    ) -> None:
        """Of ASGI."""
        size, answered = 0, False

        async def counted() -> _Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._most:
                raise _TooMuch
            return message

        async def watched(message: _Message) -> None:
            nonlocal answered
            if size <= self._most:  # else it is what the framework makes of _TooMuch
                answered = True
                await send(message)

        with contextlib.suppress(_TooMuch):
            await self._app(scope, counted, watched)
        if size > self._most and not answered:
            said = JSONResponse({"detail": f"more than {self._most:,} bytes, the most that is taken here"}, 413)
            await said(scope, receive, send)


class _TooMuch(Exception):
    pass
