"""An S3 server on loopback, and before it a proxy that spoils requests: 503, resets, slow and truncated answers."""

import contextlib
import os
import random
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import pytest

HEAD_END = b"\r\n\r\n"


@contextlib.contextmanager
def s3_server():
    """A moto server in a process of its own; yields its endpoint."""
    pytest.importorskip("moto", reason="moto is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert process.poll() is None, "the S3 server did not start"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def s3_environment(endpoint):
    """What a user sets to reach a store."""
    told = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "a secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    _forget_connections()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
        _forget_connections()


def _forget_connections():
    """fsspec keeps file systems, and with them the endpoint they were made for."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


@dataclass
class Faults:
    """Which share of requests is spoiled, and what happened."""

    share: float = 0.0
    kinds: tuple[str, ...] = ("503", "reset", "slow", "truncated")
    happened: Counter = field(default_factory=Counter)
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def draw(self, method):
        """What to do with a request; "" for nothing."""
        with self.lock:
            kind = self.rng.choice(self.kinds) if self.rng.random() < self.share else ""
            if kind == "truncated" and method != "GET":
                kind = "lost"  # done by the server, but nobody is told
            if kind:
                self.happened[f"{kind} {method}"] += 1
            return kind


@contextlib.contextmanager
def fault_proxy(endpoint, faults):
    """Forward each request on a connection of its own, spoiled as `faults` says; yields the proxy's endpoint."""
    host, port = endpoint.removeprefix("http://").split(":")

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            with contextlib.suppress(OSError):
                self.forward()

        def forward(self):
            head, body = _message(self.request)
            if not head:
                return
            method = head.split(b" ", 1)[0].decode()
            length = _length(head)
            kind = faults.draw(method)
            if b"100-continue" in head.lower():
                self.request.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            if kind == "reset":
                _read(self.request, body, length // 2)
                return _reset(self.request)
            body = _read(self.request, body, length)
            if kind == "503":
                told = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
                answer = b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nConnection: close\r\n"
                self.request.sendall(answer + b"Content-Length: %d\r\n\r\n" % len(told) + told)
                return None
            lines = [
                line
                for line in head.removesuffix(HEAD_END).split(b"\r\n")
                if not line.lower().startswith((b"expect:", b"connection:"))
            ]
            with socket.create_connection((host, int(port))) as server:
                server.sendall(b"\r\n".join([*lines, b"Connection: close"]) + HEAD_END + body)
                answer = b""
                while data := server.recv(65536):
                    answer += data
            if kind == "lost":
                return _reset(self.request)
            if kind == "truncated":
                self.request.sendall(answer[: len(answer) * 2 // 3])
                return _reset(self.request)
            if kind == "slow":
                time.sleep(0.7)
            self.request.sendall(answer)
            return None

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True
        request_queue_size = 64

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def _message(connection):
    data = b""
    while HEAD_END not in data:
        more = connection.recv(65536)
        if not more:
            return b"", b""
        data += more
    head, _, body = data.partition(HEAD_END)
    return head + HEAD_END, body


def _length(head):
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.split(b":")[1])
    return 0


def _read(connection, body, length):
    while len(body) < length:
        more = connection.recv(65536)
        if not more:
            break
        body += more
    return body


def _reset(connection):
    """Close without a goodbye."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()
