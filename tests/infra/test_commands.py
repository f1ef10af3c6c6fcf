"""Command lines that people are told to type: every word of them is one that the command knows."""

import re

import click
import pytest
import typer

from tests.infra.files import INFRA, ROOT, check_command, found

TEXTS = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *INFRA.rglob("*.md"), *INFRA.rglob("*.yaml")]
SHOWN = re.compile(r"^(?:#  +| {4})(?:there exec [\w-]+ |[A-Z_]+=\S+ )*((?:emo|ray) [a-z].*)$", re.M)
QUOTED = re.compile(r"[`']((?:emo|ray) [a-z][\w-]+ [^`'\n]*)[`']")


def commands(text: str) -> list[str]:
    """Of blocks, without what is said beside them; and in the middle of lines."""
    text = re.sub(r"\\\n\s*", "", text)
    said = [re.split(r" {2,}| > |: ", line)[0] for line in SHOWN.findall(text)] + QUOTED.findall(text)
    said = [re.sub(r"(--[\w-]+) …", r"\1 x", re.sub(r"\bN\b", "2", line)) for line in said]
    return [re.sub(r"[\[\]…]", "", line).strip() for line in said]


def check_said(line: str) -> None:
    try:
        check_command(line)
    except (click.UsageError, typer.exceptions.TyperException) as error:
        # In the middle of a line only what matters there is said.
        assert re.search("Missing|requires an argument", str(error)), f"{line}: {error}"


def told() -> list[str]:
    return sorted({line for path in TEXTS for line in commands(path.read_text())})


@pytest.mark.parametrize("line", told())
def test_a_command_is_one(line):
    check_said(line)


def test_there_are_many():
    lines = told()
    assert len([line for line in lines if line.startswith("emo ")]) > 40 and "ray down infra/ray/gcp.yaml" in lines
    assert any("s3://emo/data" in line and "--address auto" in line for line in lines), "those of the cluster, too"


@pytest.mark.parametrize("line", ["emo trian --stage 1", "emo train --stages 1", "emo flows deploi", "ray upp x.yaml"])
def test_a_typo_is_found(line):
    (same,) = commands(f"    {line}      what it does\n")
    assert same == line
    with found():
        check_said(same)
