"""What is looked at before a request's body is read: who asks, how often, and how much they send."""

import contextlib
import hmac
import logging
import math
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response

_LOG = logging.getLogger(__name__)
_OPEN = {"/", "/docs", "/openapi.json", "/healthz", "/readyz"}
"""What everybody may read: it says nothing of anybody's videos. The studio's own files are the rest of it."""
_STUDIO = "/studio/"
_CLIENTS = 10_000
"""Of whom is remembered when they came last."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Gate:
    """ASGI middleware. Everything else than reading the pages needs the token."""

    def __init__(
        self,
        app: Callable[..., Awaitable[None]],
        token: str | None,
        per_minute: int,
        most: int,
        on_answer: Callable[[int], None],
    ) -> None:
        """token: what a client must show; None lets everybody in. per_minute: requests with a body, of each address.
        most: bytes of a body. on_answer: is told every status."""
        self._app, self._token, self._most, self._on_answer = app, token, most, on_answer
        self._rate = Rate(per_minute)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Of ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._on_answer(message["status"])
            await send(message)

        refusal = self._refusal(scope)
        try:
            await (self._counting if refusal is None else refusal)(scope, receive, told)
        except Exception:
            self._on_answer(500)
            _LOG.exception("went wrong", extra={"path": scope["path"]})
            raise

    def _refusal(self, scope: Message) -> Response | None:
        path, head = scope["path"], Headers(scope=scope)
        if self._token is not None and path not in _OPEN and not path.startswith(_STUDIO):
            shown = head.get("authorization", "").encode()
            if not hmac.compare_digest(shown, f"Bearer {self._token}".encode()):
                return _said(401, "a bearer token is needed", {"WWW-Authenticate": "Bearer"})
        length = head.get("content-length", "0")
        if length.isdecimal() and int(length) > self._most:
            return self._too_much()
        if scope["method"] == "POST":
            wait = self._rate.wait((scope.get("client") or ("",))[0])
            if wait:
                return _said(
                    429, "too many requests in a minute; ask again later", {"Retry-After": str(math.ceil(wait))}
                )
        return None

    async def _counting(self, scope: Message, receive: Receive, send: Send) -> None:
        """A body that is larger than any that is taken ends before it fills the disk."""
        size, answered = 0, False

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._most:
                raise _TooMuch
            return message

        async def watched(message: Message) -> None:
            nonlocal answered
            if size <= self._most:  # else it is what the framework makes of _TooMuch
                answered = True
                await send(message)

        with contextlib.suppress(_TooMuch):
            await self._app(scope, counted, watched)
        if size > self._most and not answered:
            await self._too_much()(scope, receive, send)

    def _too_much(self) -> Response:
        return _said(413, f"more than {self._most:,} bytes, the most that is taken here")


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


def _said(status: int, sentence: str, head: dict[str, str] | None = None) -> Response:
    return JSONResponse({"detail": sentence}, status, head)


class _TooMuch(Exception):
    pass
