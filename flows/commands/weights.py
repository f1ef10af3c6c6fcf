"""Commands for the public weights that full-size training starts from."""

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import Json, say

weights = typer.Typer(help="The public weights that full-size training starts from.", no_args_is_help=True)
WeightsArgument = Annotated[Path, typer.Argument(metavar="DIR", help="What `emo train` takes as --weights.")]


@weights.command()
def check(folder: WeightsArgument, as_json: Json = False) -> None:
    """What is there, whole or not, and from where the rest would come. Asks no network."""
    from flows.weights import check

    found = check(folder)
    lines = [
        f"{part['name']:10s}{part['state']:11s}{part['what']}: {part['from']}, {part['megabytes']} MB, "
        + ", ".join([part["licence"], *part["files"]])
        for part in found
    ]
    say({"folder": str(folder), "parts": found}, lines, as_json)
    if any(part["state"] in ("missing", "damaged") for part in found):
        raise typer.Exit(1)


@weights.command()
def fetch(
    folder: WeightsArgument,
    part: Annotated[
        list[str] | None, typer.Option(metavar="unet|vae|motion|wav2vec2", help="Only this part; may be repeated.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Fetch weights from the hub (HF_ENDPOINT), go on with what was interrupted, check every file."""
    from flows.progress import progress
    from flows.weights import check, fetch

    with progress("weights") as report:
        fetch(folder, part or [], report)
    found = check(folder)
    lines = [f"{part['name']:10s}{part['state']:11s}licence {part['licence']}" for part in found]
    say({"folder": str(folder), "parts": found}, lines, as_json)
