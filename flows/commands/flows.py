"""Commands that hand the flows to Prefect."""

import os
import sys
from contextlib import nullcontext
from typing import Annotated

import typer

from flows.commands.options import Json, say

flows = typer.Typer(
    help="Everything that takes long, started, watched and cancelled from Prefect's page.", no_args_is_help=True
)
Gpus = Annotated[
    int | None, typer.Option(min=0, help="That runs of training share; more of them wait. Unset: as it was.")
]


@flows.command()
def serve(
    port: Annotated[
        int,
        typer.Option(min=1, max=65535, help="Of the server that is started here, unless PREFECT_API_URL names one."),
    ] = 4200,
    at_a_time: Annotated[int, typer.Option(min=1, help="Runs on this machine; more wait.")] = 8,
    gpus: Gpus = None,
) -> None:
    """Register the flows and run what their page is asked for, here, until it is interrupted."""
    from flows.server import OFFLINE, local_server

    for name, value in OFFLINE.items():
        os.environ.setdefault(name, value)
    url = os.environ.get("PREFECT_API_URL") or _of_profile()
    with nullcontext(url.removesuffix("/api")) if url else local_server(port) as page:
        from flows.deployed.register import serve

        print(f"flows at {page}/deployments; ends with Ctrl-C", file=sys.stderr, flush=True)
        serve(at_a_time, gpus)


@flows.command()
def deploy(
    pool: Annotated[str, typer.Option(metavar="NAME", help="A work pool, whose workers have this release.")],
    image: Annotated[str | None, typer.Option(metavar="IMAGE", help="For pools that start containers.")] = None,
    gpus: Gpus = None,
    as_json: Json = False,
) -> None:
    """Register the flows with the server in PREFECT_API_URL, for workers to run."""
    from flows.deployed.register import deploy

    names = deploy(pool, image, gpus)
    say({"deployments": names, "pool": pool}, [f"{name} in {pool}" for name in names], as_json)


def _of_profile() -> str | None:
    """What `prefect config set` or `prefect cloud login` have written down. Prefect itself would be slow to ask."""
    import subprocess

    script = "from prefect.settings import get_current_settings; print(get_current_settings().api.url or '')"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return found.stdout.strip() or None
