"""What the tests of several kinds of files share: versions, commands, and how a typo is put into a file."""

import shlex
import tomllib
from pathlib import Path

import click
import pytest
import typer
import yaml

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
VERSION = PROJECT["version"]
IMAGES = {f"open-emo:{VERSION}-{target}" for target in ("cpu", "gpu", "board")}
SCHEMAS = Path(__file__).parent / "schemas"


def check_command(line: str | list[str]) -> None:
    """A command line of ours or of Ray's: every word is one that the command knows. Nothing is run."""
    words = shlex.split(line) if isinstance(line, str) else list(line)
    tool = words.pop(0)
    if tool == "emo":
        from flows.cli import app

        command = typer.main.get_command(app)
        if words[0] == "flows" and words[0] not in command.commands:
            return  # the flows are not in this release
    else:
        assert tool == "ray", f"{tool}: not a command that we know"
        from ray.scripts.scripts import cli as command
    context = click.Context(command)
    while hasattr(command, "commands"):
        name = words.pop(0)
        assert name in command.commands, f"{tool} has no command {name}"
        command = command.commands[name]
    command.make_context(tool, words, parent=context)


def check_image(name: str) -> None:
    """Of this release, or another's with its version."""
    own, _, tag = name.rpartition("/")[2].partition(":")
    assert tag and tag != "latest", f"{name}: says no version"
    if own == "open-emo":
        assert f"{own}:{tag}" in IMAGES, f"{name}: this is {VERSION}"
    elif own == "prefect":
        assert tag.startswith(PINS["prefect"] + "-"), f"{name}: constraints.txt has Prefect {PINS['prefect']}"
    elif own == "ray":
        assert tag.startswith(PINS["ray"] + "-"), f"{name}: constraints.txt has Ray {PINS['ray']}"


def documents(text: str) -> list[dict]:
    """Of YAML."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it is there
    return [document for document in yaml.load_all(text, loader) if document]


def spoiled(path: Path, typo: tuple[str, str]) -> str:
    """A file's text with a typo in the first place where it can be."""
    text = path.read_text()
    assert typo[0] in text, f"{path.name} has no {typo[0]!r}"
    return text.replace(*typo, 1)


def found() -> pytest.RaisesExc:
    """A check must end in one of the ways in which checks end; which one is nobody's business."""
    import jsonschema
    from pydantic import ValidationError

    kinds = (AssertionError, ValidationError, jsonschema.ValidationError, ValueError, LookupError, AttributeError)
    kinds = (*kinds, jsonschema.SchemaError)
    usage = (click.UsageError, typer.exceptions.TyperException)  # typer brings a click of its own
    return pytest.raises((*kinds, *usage, yaml.YAMLError, TypeError, ModuleNotFoundError))
