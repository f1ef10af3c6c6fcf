"""The service over HTTP: what is asked for, what is answered, and who may ask."""

from collections.abc import AsyncIterator
from importlib.metadata import version
from importlib.resources import files
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Form, Header, HTTPException, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, StreamingResponse
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import Headers

from emo_core.serving import metrics
from emo_core.serving.gate import Gate, Rules, full
from emo_core.serving.inspector import Refused
from emo_core.serving.service import Busy, Service
from emo_core.serving.wish import Job, Look, State, Wish

_BESIDE = 2**20
"""Bytes of a request that are not in its two files."""
_HEARTBEAT = 15.0
"""Seconds without news after which a stream of events says that it is still there."""
_JOBS = ("/v1/jobs", "/v1/videos")
_STUDIO = files("emo_core.serving") / "studio"
_ALLOWED = "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; frame-ancestors 'none'"
"""What the studio's page may load: nothing of others."""
Key = Annotated[str | None, Header(alias="Idempotency-Key", max_length=200, description="the same key: the same job")]


class Shown(Wish):
    """The form of a request to look at a portrait."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    portrait: UploadFile

    def wish(self) -> Wish:
        """Without the files."""
        return Wish.model_validate(self.model_dump(include=set(Wish.model_fields)))


class Asked(Shown):
    """The form of a request."""

    audio: UploadFile


class Status(BaseModel):
    """Of a job."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": "5f0c2b7d9e4a4c0fa1d2b3c4d5e6f708",
                "state": "running",
                "progress": 0.48,
                "frames_done": 120,
                "frames_total": 250,
                "error": None,
            }
        }
    )

    id: str
    state: State
    progress: float = Field(description="0 to 1")
    frames_done: int
    frames_total: int
    error: str | None = Field(description="why it failed, in a sentence")

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
    faces: int | None = Field(None, description="that the portrait shows, where it must be said which one speaks")


_OUTSIDE: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "no token, or another"},
    403: {"model": Problem, "description": "where no token is needed: from elsewhere than this machine"},
}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    **_OUTSIDE,
    400: {"model": Problem, "description": "not a request of this kind"},
    408: {"model": Problem, "description": "the request stopped in the middle"},
    413: {"model": Problem, "description": "a file is too large, or its sound too long"},
    415: {"model": Problem, "description": "the portrait is no picture"},
    422: {"model": Problem, "description": "something is wrong with the portrait, the sound or a field"},
    429: {"model": Problem, "description": "full; Retry-After says when to ask again"},
}
_NO_VIDEO: dict[int | str, dict[str, Any]] = {
    404: {"model": Problem, "description": "no such job, or no longer"},
    409: {"model": Problem, "description": "it failed, was cancelled, or is not done"},
}
_WATCHED: dict[int | str, dict[str, Any]] = {429: _PROBLEMS[429]}
_UNKNOWN: dict[int | str, dict[str, Any]] = {
    **_OUTSIDE,
    404: {"model": Problem, "description": "no such job, or no longer"},
}


def create_app(service: Service, token: str | None) -> FastAPI:
    """token: what a client must show; None lets in who asks from this machine, see `emo_core.serving.gate`."""
    # Its description needs no network either.
    app = FastAPIOffline(
        title="Open EMO",
        version=version("open-emo"),
        description="One portrait and a voice become a video.",
        redoc_url=None,
        static_url="/docs/static",
    )

    def turned_away(path: str, head: Headers) -> Response | None:
        busy = service.busy(head.get("idempotency-key")) if path in _JOBS else None
        return None if busy is None else full(busy.after, str(busy))

    rules = Rules(
        token=token,
        per_minute=service.limits.per_minute,
        most=service.limits.portrait_bytes + service.limits.sound_bytes + _BESIDE,
        bodies=service.limits.queue,
        turned_away=turned_away,
        on_answer=lambda status: service.metrics.answers.labels(status).inc(),
    )
    app.add_middleware(Gate, rules=rules)
    for kind, answer in ((Refused, _refused), (Busy, _busy), (RequestValidationError, _invalid)):
        app.add_exception_handler(kind, answer)  # type: ignore[arg-type]
    # The gate asks for the token, before a body is read; this is for who reads the description.
    guarded: dict[str, Any] = {"dependencies": [Depends(HTTPBearer(auto_error=False))]}

    @app.post("/v1/jobs", status_code=202, responses=_PROBLEMS, **guarded)
    async def submit(asked: Annotated[Asked, Form(media_type="multipart/form-data")], key: Key = None) -> Status:
        """Have a video made. The answer comes at once; `GET /v1/jobs/{id}` tells how far it is."""
        return Status.of(await service.submit(asked.portrait, asked.audio, asked.wish(), key))

    @app.post("/v1/videos", responses={200: _MP4, **_PROBLEMS, **_NO_VIDEO}, response_class=FileResponse, **guarded)
    async def make(
        request: Request, asked: Annotated[Asked, Form(media_type="multipart/form-data")], key: Key = None
    ) -> Response:
        """Have a video of a short sound made, and wait for it. Who hangs up does not want it any more, but where there
        is a key to ask for it again."""
        job = await service.submit(asked.portrait, asked.audio, asked.wish(), key, service.limits.short_seconds)
        try:
            job = await _until_over(service, job, request)
        finally:
            if key is None:  # what is over stays as it is
                await service.cancel(job.id)
        return _video(service, job)

    @app.post("/v1/portraits", responses=_PROBLEMS, **guarded)
    async def look(asked: Annotated[Shown, Form(media_type="multipart/form-data")]) -> Look:
        """What a video of a portrait would show: its face, and where that may go."""
        return await service.look(asked.portrait, asked.wish())

    @app.get("/v1/models", responses=_OUTSIDE, **guarded)
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

    @app.get(
        "/v1/jobs/{job}/events",
        responses={200: _EVENTS, **_UNKNOWN, **_WATCHED},
        response_class=StreamingResponse,
        **guarded,
    )
    async def events(job: str) -> Response:
        """The same whenever there is something new, as server-sent events, to the job's end."""
        _existing(service, job)
        return StreamingResponse(_events(service, job), media_type="text/event-stream")

    @app.get(
        "/v1/jobs/{job}/video",
        responses={200: _MP4, **_UNKNOWN, **_NO_VIDEO},
        response_class=FileResponse,
        **guarded,
    )
    async def video(job: str) -> Response:
        """The result."""
        return _video(service, _existing(service, job))

    @app.get(
        "/v1/jobs/{job}/stream",
        responses={200: _MP4 | {"description": "a fragmented mp4, which grows"}, **_UNKNOWN, **_WATCHED},
        response_class=StreamingResponse,
        **guarded,
    )
    async def stream(job: str) -> Response:
        """The video while it is made, clip by clip, to its end. Of a job that fails, what there was of it."""
        _existing(service, job)
        return StreamingResponse(service.watch(job), media_type="video/mp4")

    @app.delete("/v1/jobs/{job}", responses=_UNKNOWN, **guarded)
    async def cancel(job: str) -> Status:
        """Nobody wants it any more. What is over stays as it is."""
        _existing(service, job)
        await service.cancel(job)
        return Status.of(_existing(service, job))

    @app.get("/v1/samples/{name}", responses=_UNKNOWN | {422: _PROBLEMS[422]}, response_class=FileResponse, **guarded)
    async def sample(name: Literal["portrait.png", "voice.wav"]) -> Response:
        """A portrait and a voice to try it with, made in code."""
        return FileResponse(await service.sample(name))

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> Response:
        ready = await service.ready()
        return JSONResponse({"status": "ready" if ready else "nobody is there to make videos"}, 200 if ready else 503)

    @app.get("/metrics", include_in_schema=False)
    async def measured() -> Response:
        return Response(service.metrics.exposition(), media_type=metrics.FORMAT)

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return Response(
            (_STUDIO / "index.html").read_bytes(), headers={"Content-Security-Policy": _ALLOWED}, media_type="text/html"
        )

    @app.get("/studio/index.html", include_in_schema=False)
    async def same_page() -> Response:
        return RedirectResponse("/")

    app.mount("/studio", StaticFiles(packages=[("emo_core.serving", "studio")]), name="studio")
    return app


_MP4: dict[str, Any] = {"content": {"video/mp4": {}}, "description": "the video"}
_EVENTS: dict[str, Any] = {"content": {"text/event-stream": {}}, "description": "states of the job, as JSON"}


_GONE = "there is no such job, or no longer"


def _existing(service: Service, job: str) -> Job:
    found = service.get(job)
    if found is None:
        raise HTTPException(404, _GONE)
    return found


def _video(service: Service, job: Job) -> Response:
    if job.state == State.FAILED:
        raise HTTPException(409, f"it failed: {job.error}")
    if job.state != State.DONE:
        raise HTTPException(409, f"it is {job.state}")
    if not service.video(job).exists():
        raise HTTPException(404, _GONE)
    return FileResponse(service.video(job), media_type="video/mp4", filename=f"{job.id}.mp4")


async def _until_over(service: Service, job: Job, request: Request) -> Job:
    """Or until nobody waits any more."""
    while not job.state.over:
        await service.news(job, 0.5)
        if await request.is_disconnected():
            return job
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
        if not await service.news(now, _HEARTBEAT):
            yield ": still here\n\n"


async def _refused(_: Request, refused: Refused) -> Response:
    said: dict[str, Any] = {"detail": refused.sentence}
    return JSONResponse(said if refused.faces is None else said | {"faces": refused.faces}, refused.status)


async def _busy(_: Request, busy: Busy) -> Response:
    return full(busy.after, str(busy))


async def _invalid(_: Request, error: RequestValidationError) -> Response:
    said = "; ".join(
        f"{'.'.join(str(part) for part in one['loc'][1:]) or 'request'}: {one['msg'].removeprefix('Value error, ')}"
        for one in error.errors()
    )
    return JSONResponse({"detail": said}, 422)
