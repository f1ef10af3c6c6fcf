"""A Prefect server of one's own: on the loopback, without a word to anybody else."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from emo_data.errors import UserError

OFFLINE = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
_PATIENCE = 180.0
"""Seconds until it answers: the first time it makes its database."""


@contextmanager
def local_server(port: int) -> Iterator[str]:
    """Its page's address, while the block runs; PREFECT_API_URL says it to this process and what it starts.

    To be called before Prefect is imported. What it knows stays in PREFECT_HOME (~/.prefect). UserError where the port
    is taken, or another server's.
    """
    page = f"http://127.0.0.1:{port}"
    if _answers(page):
        raise UserError(
            f"--port {port}: something answers there; if it is a Prefect server, set PREFECT_API_URL={page}/api"
        )
    os.environ.update(OFFLINE, PREFECT_API_URL=f"{page}/api", PREFECT_SERVER_UI_API_URL=f"{page}/api")
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    # Of its own group, so that Ctrl-C does not take it away before what uses it.
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        end = time.monotonic() + _PATIENCE
        while not _answers(page):
            if process.poll() is not None or time.monotonic() > end:
                raise UserError(f"--port {port}: no Prefect server starts there; `prefect server start` tells why")
            time.sleep(0.3)
        yield page
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(page: str) -> bool:
    try:
        return httpx.get(f"{page}/api/health", timeout=5).is_success
    except httpx.TransportError:
        return False
