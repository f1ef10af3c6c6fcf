"""The `emo` command. Heavy imports live inside the commands, so that `emo --help` answers at once."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from emo_data.errors import UserError

app = typer.Typer(
    name="emo",
    help="One portrait and a voice become a talking, singing video.",
    epilog="Exit code 0: done, 1: failed, 2: bad input. --debug, anywhere on the line, shows where an error arose.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on stdout.")]


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
    _say(found, lines, as_json)
    if failed:
        raise typer.Exit(1)


@app.command()
def sample(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    clips: Annotated[int, typer.Option(min=1, help="How many clips to train on.")] = 8,
    seconds: Annotated[float, typer.Option(min=1, help="Length of each clip.")] = 8.0,
    seed: Annotated[int, typer.Option(min=0, help="Another seed makes other looks, motions and voices.")] = 0,
    as_json: Json = False,
) -> None:
    """Talking-head clips made in code, with their truth in truth.json."""
    from emo_data.synthetic import write_sample
    from flows.progress import progress

    with progress("sample") as report:
        write_sample(folder, clips=clips, seconds=seconds, seed=seed, on_progress=report)
    _say({"folder": str(folder), "clips": clips, "seconds": seconds}, [f"{clips} clips in {folder}"], as_json)


def _say(result: dict[str, Any], lines: list[str], as_json: bool) -> None:
    print(json.dumps(result, allow_nan=False) if as_json else "\n".join(lines), flush=True)


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
    sys.exit(run(sys.argv[1:]))
