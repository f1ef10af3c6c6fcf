"""What is looked at before a request's body is read: who asks, from where, how often, and how much they send."""

import asyncio
import contextlib
import hmac
import logging
import math
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response

_LOG = logging.getLogger(__name__)
_OPEN = {"/", "/docs", "/openapi.json", "/healthz", "/readyz"}
"""What everybody may read: it says nothing of anybody's videos. The studio's own files are the rest of it."""
_PAGES = ("/studio/", "/docs/")
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_WATCHED = ("/events", "/stream")
_WATCHERS = 500
"""Of the requests that a front answers at a time, those that stay."""
_SILENCE = 60
"""Seconds in which something of a body must come."""
_CLIENTS = 10_000
"""Of whom is remembered when they came last."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@dataclass(frozen=True)
class Rules:
    """Of a gate."""

    token: str | None
    """What a client must show; None lets those in who ask from this machine, and no other's page in their browser."""
    per_minute: int
    """Requests with a body, of each address."""
    most: int
    """Bytes of a body."""
    bodies: int
    """That are read at a time."""
    turned_away: Callable[[str, Headers], Response | None]
    """Path and head of a request with a body: why it is not even read."""
    on_answer: Callable[[int], None]
    """Is told every status."""


class Gate:
    """ASGI middleware. Everything else than reading the pages needs the token."""

    def __init__(self, app: Callable[..., Awaitable[None]], rules: Rules) -> None:
        self._app, self._rules = app, rules
        self._rate = Rate(rules.per_minute)
        self._bodies, self._watchers = 0, 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Of ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._rules.on_answer(message["status"])
            await send(message)

        stays = scope["path"].endswith(_WATCHED)
        self._watchers += stays
        try:
            refusal = self._refusal(scope)
            await (self._counting if refusal is None else refusal)(scope, receive, told)
        except Exception:
            self._rules.on_answer(500)
            _LOG.exception("went wrong", extra={"path": scope["path"]})
            raise
        finally:
            self._watchers -= stays

    def _refusal(self, scope: Message) -> Response | None:
        path, head = scope["path"], Headers(scope=scope)
        if self._rules.token is None:
            if not _from_here(head):
                return _said(403, "without a token only this machine's own pages and programs are answered")
        elif path not in _OPEN and not path.startswith(_PAGES):
            shown = head.get("authorization", "").encode()
            if not hmac.compare_digest(shown, f"Bearer {self._rules.token}".encode()):
                return _said(401, "a bearer token is needed", {"WWW-Authenticate": "Bearer"})
        if path.endswith(_WATCHED) and self._watchers > _WATCHERS:
            return full()
        if scope["method"] == "POST":
            length = head.get("content-length", "0")
            if length.isdecimal() and int(length) > self._rules.most:
                return self._too_much()
            wait = self._rate.wait((scope.get("client") or ("",))[0])
            if wait:
                return full(math.ceil(wait), "too many requests in a minute; ask again later")
            return full() if self._bodies >= self._rules.bodies else self._rules.turned_away(path, head)
        return None

    async def _counting(self, scope: Message, receive: Receive, send: Send) -> None:
        """A body that is larger than any that is taken ends before it fills the disk; one that stops is let go."""
        size, answered, refusal = 0, False, None
        reads = scope["method"] == "POST"
        self._bodies += reads

        def has_read() -> None:
            nonlocal reads
            self._bodies -= reads
            reads = False

        async def counted() -> Message:
            nonlocal size, refusal
            try:
                async with asyncio.timeout(_SILENCE if reads else None):
                    message = await receive()
            except TimeoutError:
                refusal = _said(408, f"nothing came for {_SILENCE} s; send it again")
                raise _Ended from None
            size += len(message.get("body", b""))
            if size > self._rules.most:
                refusal = self._too_much()
                raise _Ended
            if not message.get("more_body"):
                has_read()
            return message

        async def watched(message: Message) -> None:
            nonlocal answered
            if refusal is None:  # else it is what the framework makes of _Ended
                answered = True
                await send(message)

        try:
            with contextlib.suppress(_Ended):
                await self._app(scope, counted, watched)
        finally:
            has_read()
        if refusal is not None and not answered:
            await refusal(scope, receive, send)

    def _too_much(self) -> Response:
        return _said(413, f"more than {self._rules.most:,} bytes, the most that is taken here")


class Rate:
    """So many a minute, of each client; as many at once where it had none for a minute."""

    def __init__(self, per_minute: int) -> None:
        self._each = 60 / per_minute
        self._until: dict[str, float] = {}
        """Up to when a client's requests would fill the time if they came evenly."""

    def wait(self, client: str) -> float:
        """Seconds that this one is too early; 0 takes it."""
        now = time.monotonic()
        until = max(self._until.get(client, 0), now) + self._each
        if until - now > 60:
            return until - now - 60
        self._until.pop(client, None)
        self._until[client] = until  # the last that came is the last in the dictionary
        if len(self._until) > _CLIENTS:
            del self._until[next(iter(self._until))]
        return 0


def full(after: int = 5, sentence: str = "full; ask again later") -> Response:
    """after: seconds until it may be different."""
    return _said(429, sentence, {"Retry-After": str(after)})


def _from_here(head: Headers) -> bool:
    """No page of others, whose name may even lead here, asks through the browser of somebody at this machine."""
    host, origin = head.get("host", ""), head.get("origin")
    if head.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return False
    try:
        return urlsplit(f"//{host}").hostname in _LOOPBACK and (origin is None or urlsplit(origin).netloc == host)
    except ValueError:  # neither is an address
        return False


def _said(status: int, sentence: str, head: dict[str, str] | None = None) -> Response:
    return JSONResponse({"detail": sentence}, status, head)


class _Ended(Exception):
    """A body of which no more is read."""
