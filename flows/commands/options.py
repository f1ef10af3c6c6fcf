"""What several commands take and say alike."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emo_data.errors import UserError

if TYPE_CHECKING:
    import torch

DatasetArgument = Annotated[str, typer.Argument(metavar="DATASET")]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="What to compute on.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on stdout.")]


def choose_device(name: str) -> "torch.device":
    """auto: the accelerator if there is one. UserError for a device that this machine has not."""
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if name == "auto":
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device {name}: no such kind of device; auto, cpu or cuda") from error
    if device.type != "cpu" and (accelerator is None or device.type != accelerator.type):
        raise UserError(f"--device {name}: this machine has none that torch can use; `emo doctor` lists what it has")
    return device


def whole(place: str) -> str:
    """A path from the root; what is in a store stays as it is. For the workers of a cluster, which start elsewhere."""
    return place if "://" in place else os.path.abspath(place)


def check_picture(option: str, path: Path | None) -> None:
    """UserError for a picture that could not be written: before the work, not after it."""
    if path is not None and path.suffix.lower() != ".png":
        raise UserError(f"{option} {path}: must end in .png")
    if path is not None and not path.parent.is_dir():
        raise UserError(f"{option} {path}: the folder {path.parent} does not exist")


def say(result: dict[str, Any], lines: list[str], as_json: bool) -> None:
    """Print a result: for a person line by line, or as the one JSON object."""
    print(json.dumps(result, allow_nan=False) if as_json else "\n".join(lines), flush=True)
