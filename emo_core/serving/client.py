"""A service as seen from elsewhere: asked over HTTP, patiently, and not believed more than necessary."""

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TypeVar

import httpx
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from emo_core.serving.results import Stopped
from emo_core.serving.wish import State
from emo_data.errors import UserError

_FIRST_PAUSE, _LAST_PAUSE = 0.5, 30.0
"""Seconds before something is tried again, where the service does not say how many."""
_LONGEST_PAUSE = 600.0
"""However many it says."""
_PATIENCE = 600.0
"""Seconds that a service may take to be back."""
_TIMEOUT = httpx.Timeout(60, connect=10, read=300)
"""A service looks at what it was sent before it answers, at one after the other."""

Answer = TypeVar("Answer")


class RowFailed(Exception):
    """It cannot be done, for a reason that is not any other row's. `str` is the reason."""


class Forgotten(Exception):
    """The service does not know the job, or no longer."""


class Job(BaseModel):
    """What is read of an answer. The id becomes part of an address, and of nothing else."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,100}$")]
    state: State
    frames_total: int
    error: str | None = None


class _Model(BaseModel):
    id: str


class _Later(Exception):
    """Not now. after: in so many seconds. full: the service is there, and has too much to do."""

    def __init__(self, why: str, after: float | None = None, *, full: bool = False) -> None:
        super().__init__(why)
        self.after, self.full = after, full


def connect(endpoint: str, token: str | None) -> httpx.AsyncClient:
    """token: what `emo serve` has as EMO_TOKEN. Raises UserError."""
    if token and not re.fullmatch(r"[!-~]+", token):
        raise UserError("EMO_TOKEN: a token has neither spaces nor other than ASCII characters")
    try:
        url = httpx.URL(endpoint)
    except httpx.InvalidURL as error:
        raise UserError(f"--endpoint {endpoint}: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise UserError(f"--endpoint {endpoint}: must be like http://127.0.0.1:8000")
    head = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.AsyncClient(base_url=url, headers=head, timeout=_TIMEOUT)


class Client:
    """All but `models` wait where the service is full, or away for a while.

    They raise RowFailed where it does not take what it was asked, Stopped where it does not come back, and UserError
    where it wants another token. on_trouble: is told why they wait, and of nothing when they do no longer.
    """

    def __init__(self, http: httpx.AsyncClient, on_trouble: Callable[[str], None]) -> None:
        """http: see `connect`."""
        self._http, self._on_trouble = http, on_trouble

    async def models(self) -> list[str]:
        """Their ids. Raises UserError where there is no service."""
        where = f"--endpoint {self._http.base_url}"
        try:
            answer = await self._http.get("/v1/models")
        except httpx.RequestError as error:
            raise UserError(f"{where}: no answer ({_why(error)}); start `emo serve` there, or correct it") from error
        _check_token(answer)
        try:
            found = TypeAdapter(list[_Model]).validate_json(answer.content)
        except ValidationError as error:
            raise UserError(
                f"{where}: answers {answer.status_code}, and not as `emo serve` does; correct it"
            ) from error
        return [model.id for model in found]

    async def submit(self, portrait: Path, audio: Path, wish: dict[str, Any], key: str) -> Job:
        """wish: fields of `Wish`. The same key and the same request are the same job."""
        return await self._patiently(partial(self._submit, portrait, audio, wish, key))

    async def status(self, job: str) -> Job:
        """Raises Forgotten, too."""
        return await self._patiently(partial(self._status, job))

    async def fetch(self, job: str, place: Callable[[], AbstractContextManager[Path]]) -> None:
        """The video of a job that is done. place: where to write it, for every try. Raises Forgotten, too."""
        await self._patiently(partial(self._fetch, job, place))

    async def _submit(self, portrait: Path, audio: Path, wish: dict[str, Any], key: str) -> Job:
        with _opened("portrait", portrait) as picture, _opened("audio", audio) as sound:
            answer = await self._http.post(
                "/v1/jobs",
                # What the files are called here is nobody else's business.
                files={"portrait": ("portrait", picture), "audio": ("audio", sound)},
                data=wish,
                headers={"Idempotency-Key": key},
            )
        return _job(answer)

    async def _status(self, job: str) -> Job:
        return _job(await self._http.get(f"/v1/jobs/{job}"))

    async def _fetch(self, job: str, place: Callable[[], AbstractContextManager[Path]]) -> None:
        async with self._http.stream("GET", f"/v1/jobs/{job}/video") as answer:
            if not answer.is_success:
                await answer.aread()
            _judge(answer)
            if answer.headers.get("content-type") != "video/mp4":
                raise RowFailed("the service sent something else than a video")
            with place() as path, path.open("wb") as file:
                async for chunk in answer.aiter_bytes():
                    file.write(chunk)

    async def _patiently(self, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        pause, since = _FIRST_PAUSE, None  # since when it is as if there were no service
        while True:
            try:
                answer = await ask()
            except _Later as error:
                later = error
            except httpx.RequestError as error:
                later = _Later(f"the connection fails ({_why(error)})")
            else:
                self._on_trouble("")
                return answer
            now = time.monotonic()
            since = now if since is None or later.full else since
            if now - since > _PATIENCE:
                await self._give_up(str(later))
            self._on_trouble(str(later))
            # Those who were sent away together must not come back together.
            await asyncio.sleep((pause if later.after is None else later.after) * random.uniform(1, 1.25))
            pause = min(2 * pause, _LAST_PAUSE)

    async def _give_up(self, why: str) -> None:
        said = f"{why}, for {_PATIENCE / 60:.0f} minutes"
        try:
            there = (await self._http.get("/v1/models")).is_success
        except httpx.RequestError:
            there = False
        if there:  # so it is this request that it cannot bear
            raise RowFailed(said)
        raise Stopped(f"--endpoint {self._http.base_url}: {said}; what is done is kept, type it again when it is back")


def one_line(text: str) -> str:
    """What another machine says, fit for a terminal."""
    return "".join(sign for sign in " ".join(text.split()) if sign.isprintable())[:500]


def _job(answer: httpx.Response) -> Job:
    _judge(answer)
    try:
        return Job.model_validate_json(answer.content)
    except ValidationError as error:
        raise RowFailed("the service answered something else than a job") from error


def _judge(answer: httpx.Response) -> None:
    """Raises what is to be done where it is not what was asked for."""
    _check_token(answer)
    if answer.status_code == 404:
        raise Forgotten
    if answer.status_code == 429:
        raise _Later("the service is full", _after(answer), full=True)
    if answer.status_code >= 500:
        raise _Later(f"the service answers {answer.status_code}", _after(answer))
    if not answer.is_success:
        raise RowFailed(_sentence(answer))


def _check_token(answer: httpx.Response) -> None:
    if answer.status_code == 401:
        raise UserError("EMO_TOKEN: the service wants another; set this variable to the token that it was started with")


def _after(answer: httpx.Response) -> float | None:
    """Seconds. A date, which the header may be too, is as if there were nothing."""
    said = answer.headers.get("Retry-After", "")
    return min(max(float(said), _FIRST_PAUSE), _LONGEST_PAUSE) if re.fullmatch(r"[0-9]{1,9}", said) else None


def _sentence(answer: httpx.Response) -> str:
    try:
        said = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        said = None
    return (one_line(said) if isinstance(said, str) else "") or f"the service answered {answer.status_code}"


def _why(error: httpx.RequestError) -> str:
    return str(error) or type(error).__name__


def _opened(name: str, path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise RowFailed(f"{name}: {path}: {error.strerror}") from error
