"""One process at a time writes a dataset, a run or a video. Works on any disk or store that creates a name only once.

The holder of FOLDER/work/lease/NUMBER.json shows that it lives by rewriting NUMBER.beat. Who finds a dead one creates
the next number; of several who try, one succeeds. Clocks of different machines are never compared.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from emo_data.errors import UserError
from emo_data.objects import Folder

_FOLDER = "work/lease"
BEAT_SECONDS = 5.0
DEAD_AFTER = 30.0
"""Seconds without a beat, on the observer's own clock."""


class Taken(UserError):
    """Another process has it."""


class Lease:
    """Held. `check` before anything that readers will see."""

    def __init__(self, folder: Folder, who: str, number: int, token: bytes) -> None:
        self._folder, self._who, self._token, self._number = folder, who, token, number
        self._checked = time.monotonic()
        self._over = threading.Event()
        self._beats = threading.Thread(target=self._beat, daemon=True, name="lease")
        self._beats.start()

    def check(self) -> None:
        """UserError where somebody else has taken over, because this one seemed dead (a machine asleep)."""
        if time.monotonic() - self._checked > DEAD_AFTER / 2:
            if not self._is_ours():
                raise UserError(
                    f"{self._folder.url}: another {self._who} took over while this one stood still; let it finish"
                )
            self._checked = time.monotonic()

    def end(self) -> None:
        """Give it back, if it is still ours."""
        self._over.set()
        self._beats.join()
        with contextlib.suppress(OSError):  # then nobody can take it, and whoever can later finds it without a beat
            if self._is_ours():
                self._folder.delete([_name(self._number), _beat_name(self._number)])

    def _is_ours(self) -> bool:
        if _numbers(self._folder)[-1:] != [self._number]:
            return False
        return self._folder.read(_name(self._number)) == self._token

    def _beat(self) -> None:
        count = 0
        while not self._over.wait(BEAT_SECONDS):
            count += 1
            with contextlib.suppress(OSError):  # a disk that is full for a moment: the next beat may come through
                self._folder.write(_beat_name(self._number), str(count).encode())


@contextmanager
def leased(folder: Folder, who: str) -> Iterator[Lease]:
    """The right to write a folder. who: what its writers are called. Raises Taken where one that lives has it."""
    newest = _numbers(folder)[-1:]
    for number in newest:
        _must_be_dead(folder, who, number)
    number = newest[0] + 1 if newest else 1
    token = json.dumps({**_self(), "token": uuid.uuid4().hex}).encode()
    if not folder.create(_name(number), token):
        raise Taken(f"{folder.url}: another {who} has just begun to write it; let it finish")
    folder.delete([name for old in newest for name in (_name(old), _beat_name(old))])
    lease = Lease(folder, who, number, token)
    try:
        yield lease
    finally:
        lease.end()


def _must_be_dead(folder: Folder, who: str, number: int) -> None:
    try:
        holder = json.loads(folder.read(_name(number)))
    except FileNotFoundError:
        return  # it has just ended
    here = holder["host"] == _self()["host"]
    if _is_alive(holder) if here else _beats(folder, number):
        raise Taken(
            f"{folder.url}: another {who} is writing it (process {holder['pid']} on "
            f"{holder['host'].split()[0]}); let it finish, or stop it"
        )


def _is_alive(holder: dict[str, Any]) -> bool:
    try:
        return abs(psutil.Process(holder["pid"]).create_time() - holder["born"]) < 1
    except psutil.NoSuchProcess:
        return False


def _beats(folder: Folder, number: int) -> bool:
    start, first = time.monotonic(), _pulse(folder, number)
    while time.monotonic() - start < DEAD_AFTER:
        time.sleep(BEAT_SECONDS / 5)
        if not folder.exists(_name(number)):
            return False
        if _pulse(folder, number) != first:
            return True
    return False


def _pulse(folder: Folder, number: int) -> bytes:
    try:
        return folder.read(_beat_name(number))
    except FileNotFoundError:
        return b""


def _self() -> dict[str, Any]:
    process = psutil.Process()
    host = f"{socket.gethostname()} {round(psutil.boot_time())}"
    return {"host": host, "pid": os.getpid(), "born": process.create_time()}


def _numbers(folder: Folder) -> list[int]:
    names = [name.rsplit("/", 1)[-1] for name in folder.names(_FOLDER)]
    return sorted(int(name.removesuffix(".json")) for name in names if name.endswith(".json"))


def _name(number: int) -> str:
    return f"{_FOLDER}/{number:08d}.json"


def _beat_name(number: int) -> str:
    return f"{_FOLDER}/{number:08d}.beat"
