"""The `emo` command."""

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from emo_data.errors import UserError
from flows.commands.batch import batch
from flows.commands.data import data, ingest, sample
from flows.commands.evaluate import evaluate
from flows.commands.flows import flows
from flows.commands.model import bench, generate
from flows.commands.options import Device, Json, choose_device, say
from flows.commands.serve import serve
from flows.commands.train import train
from flows.commands.weights import weights

app = typer.Typer(
    name="emo",
    help="One portrait and a voice become a talking, singing video.",
    epilog="Exit code 0: done, 1: failed, 2: bad input. --debug, anywhere on the line, shows where an error arose.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Versions, devices, and what works on this machine."""
    from flows.doctor import examine

    found = examine()
    failed = [what for what, answer in found["checks"].items() if answer != "ok"]
    lines = [f"{found['machine']}, Python {found['python']}, {found['cores']} cores, {found['memory_gib']} GiB"]
    lines += [f"devices: {', '.join(found['devices'])}"]
    lines += [f"{name:14s}{number or 'missing'}" for name, number in found["packages"].items()]
    lines += [f"{what}: {answer}" for what, answer in found["checks"].items()]
    say(found, lines, as_json)
    if failed:
        raise typer.Exit(1)


app.command()(sample)
app.command()(ingest)
app.add_typer(data, name="data")
app.command()(train)
app.command()(generate)
app.command()(serve)
app.command()(batch)
app.command()(evaluate)
app.add_typer(flows, name="flows")
app.add_typer(weights, name="weights")
app.add_typer(bench, name="bench")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder, or an earlier demo's: what is done is kept.")],
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """The whole road, from nothing to a talking portrait: sample, ingest, three stages, generate."""
    from flows.demo import DemoSettings, demo
    from flows.progress import clock

    report = demo(out, DemoSettings(seed=seed), choose_device(device))
    lines = [f"{name:10s}{clock(seconds)}" for name, seconds in report["seconds"].items()]
    lines += [f"{'in all':10s}{clock(report['seconds_in_all'])}, {report['peak_mib'] / 1024:.1f} GiB of memory at most"]
    say(report, [*lines, f"watch {report['video']}"], as_json)


@app.command()
def proof(
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="A new folder, or an earlier proof's: what is done is kept.")
    ],
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """The paper's claims on the small model, trained on many faces: a number and a picture for each."""
    from flows.progress import clock
    from flows.proof import ProofSettings, proof

    report = proof(out, ProofSettings(seed=seed), choose_device(device))
    lines = [
        f"({claim['letter']}) {'holds        ' if claim['holds'] else 'does not hold'} {claim['says']}"
        for claim in report["claims"]
    ]
    say(report, [*lines, f"in {clock(report['seconds_in_all'])}; see {out / 'report.md'}"], as_json)
    if not all(claim["holds"] for claim in report["claims"]):
        raise typer.Exit(1)


def run(arguments: list[str]) -> int:
    """Carry out one command line and return its exit code. A fault of ours keeps its traceback."""
    debug = "--debug" in arguments
    try:
        code = app([word for word in arguments if word != "--debug"], prog_name="emo", standalone_mode=False)
    except (UserError, typer.TyperException) as error:
        if debug:
            raise
        message = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        if message:  # a bare `emo` has only shown the help
            print(f"error: {' '.join(message.split())}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        print("error: interrupted", file=sys.stderr)
        return 1
    return code or 0


def main() -> None:
    """The console script."""
    # The small model's layers take microseconds: threads inside an operation wait for each other longer than they
    # work, and where they spin while they wait, another busy process makes them 60 times slower. Training has other
    # work for the other cores (see `accumulate`). Whoever has a larger model sets OMP_NUM_THREADS. It must be said
    # before torch is imported, which only the commands do.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever stops us lets us clear up
    sys.exit(run(sys.argv[1:]))
