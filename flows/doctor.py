"""What this machine has and what works on it: each answer is tried, not looked up in a table."""

import os
import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from emo_data.cores import cores

_PACKAGES = ("open-emo", "torch", "diffusers", "transformers", "mediapipe", "decord", "av", "pyarrow", "ray", "prefect")


def examine() -> dict[str, Any]:
    """Keys: python, machine, cores, memory_gib, packages (version or None), devices, checks ("ok" or why not)."""
    import torch

    devices = ["cpu"]
    devices += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "cores": cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "packages": versions(),
        "devices": devices,
        "checks": {what: _try(check) for what, check in _CHECKS.items()},
    }


def versions() -> dict[str, str | None]:
    """Version of each package that a result depends on; None where it is not installed."""
    return {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _try(check: Callable[[], None]) -> str:
    try:
        check()
    except Exception as fault:  # noqa: BLE001 - the fault is the answer
        return f"{type(fault).__name__}: {fault}"
    return "ok"


def _encode() -> None:
    import av.codec

    for codec in ("libx264", "aac"):
        av.codec.Codec(codec, "w")


def _decode() -> None:
    import decord  # noqa: F401


def _find_faces() -> None:
    import numpy as np

    from emo_data.features.faces import find_faces

    find_faces(np.zeros((64, 64, 3), np.uint8))


def _learn() -> None:
    import torch

    torch.nn.functional.mse_loss(torch.nn.Linear(2, 1)(torch.ones(1, 2)), torch.zeros(1, 1)).backward()


_CHECKS: dict[str, Callable[[], None]] = {
    "write mp4 with sound": _encode,
    "decode video": _decode,
    "find faces": _find_faces,
    "train": _learn,
}
