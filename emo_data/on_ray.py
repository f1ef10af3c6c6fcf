"""A Ray to work on: one of our own that ends with the work, or a cluster that is there."""

import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from emo_data.errors import UserError

_OBJECT_STORE = 512 * 2**20


@contextmanager
def connected(address: str, cpus: int) -> Iterator[None]:
    """A Ray while the block runs. One that is there already is used as it is, and left alone.

    address: "local" starts one with `cpus`, which asks for a token that it makes; "auto" finds this machine's; else
    HOST:PORT. UserError where none answers.
    """
    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    on_term = signal.getsignal(signal.SIGTERM)
    if address == "local":
        ray.init("local", num_cpus=cpus, include_dashboard=False, object_store_memory=_OBJECT_STORE, **quiet)
    else:
        try:
            host, _, port = address.rpartition(":")
            if host and port.isdigit() and "/" not in host:  # Ray itself would try for minutes, line by line
                socket.create_connection((host, int(port)), timeout=10).close()
            ray.init(address, **quiet)
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise UserError(f"--address {address}: no Ray answers there: {reason}") from error
    if signal.getsignal(signal.SIGTERM) is not on_term:
        signal.signal(signal.SIGTERM, on_term)  # Ray put its own in its place
    try:
        yield
    finally:
        ray.shutdown()


def cluster_cores(address: str) -> int:
    """CPUs that Ray counts there, but for one that its own tasks need. UserError as `connected`."""
    with connected(address, 1):
        return max(1, int(ray.cluster_resources().get("CPU", 2)) - 1)
