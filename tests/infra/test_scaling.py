"""What growing costs: the page's numbers are its formulas of what was measured and counted."""

import json
import re

import pytest

from emo_core.training.recipes import stage_recipe
from tests.infra.files import ROOT

PAGE = (ROOT / "docs" / "scaling.md").read_text()
INGEST, TRAIN, MODEL = (json.loads((ROOT / f"docs/bench_{of}.json").read_text()) for of in ("ingest", "train", "model"))
CARDS = ("H100", "L40S", "A100")
NUMBER = re.compile(r"\d[\d ]*(?:\.\d+)?")


def inputs(page: str) -> dict[str, list[float]]:
    """The first table: letter -> its numbers."""
    rows = re.findall(r"^\| ([\w', ]+) \| [^|]+ \| ([^|]+) \|", page.partition("## Core-hours")[0], re.M)
    told: dict[str, list[float]] = {}
    for letters, cell in rows:
        values = [float(number.replace(" ", "")) for number in NUMBER.findall(re.sub(r"\(.*?\)", "", cell))]
        names = letters.split(", ")
        told |= dict(zip(names, ([one] for one in values), strict=True)) if len(names) > 1 else {letters: values}
    return told


def agrees(cell: str, value: float) -> bool:
    """To the last digit that is shown."""
    shown = NUMBER.search(cell)[0].strip()
    _, dot, decimals = shown.partition(".")
    zeros = 0 if dot else len(shown) - len(shown.rstrip("0 ").replace(" ", "")) - shown.count(" ")
    return abs(float(shown.replace(" ", "")) - value) <= 0.51 * 10.0 ** (zeros or -len(decimals))


def check_row(page: str, label: str, *values: float) -> None:
    (row,) = re.findall(rf"^\| {re.escape(label)}[^|]*\|(.+)\|$", page, re.M)
    cells = row.split("|")
    assert len(cells) == len(values), label
    for cell, value in zip(cells, values, strict=True):
        assert agrees(cell, value), f"{label}: {cell.strip()}, and its formula gives {value:.4g}"


def check_page(page: str) -> None:
    x = inputs(page)
    one = {name: values[0] for name, values in x.items()}
    line, bare = INGEST["seconds_per_frame"]["line"], INGEST["seconds_per_frame"]["line_without_wav2vec"]
    measured = {"k": line, "k'": bare, "s": INGEST["line_scaling"] / INGEST["workers"]}
    measured |= {f"T{stage}": TRAIN["sample_tflop"][f"stage {stage}"] for stage in (1, 2, 3)}
    measured |= {"C": MODEL["clip_tflop"] / 1000, "w": 12 * 768 * 2, "l": 4 * 64 * 64 * 2, "q": 16000 / 25 * 2}
    for name, value in measured.items():
        assert one[name] == pytest.approx(value, rel=5e-3), name
    recipes = [stage_recipe(stage, "sd15") for stage in (1, 2, 3)]
    assert [(recipe.steps, recipe.batch) for recipe in recipes] == [(one[f"S{n}"], one[f"B{n}"]) for n in (1, 2, 3)]
    peaks = {card: float(peak) for peak, card in re.findall(r"(\d+) \((\w+)\)", page)}
    speeds = [peaks[card] * one["u"] for card in CARDS]
    frames = [hours * 3600 * one["f"] for hours in x["H"]]

    cores = [n * one["k"] / 3600 / one["s"] for n in frames]
    check_row(page, "wav2vec2 on the CPU", *cores)
    check_row(page, "wav2vec2 elsewhere", *(n * one["k'"] / 3600 / one["s"] for n in frames))
    check_row(page, "hours on 2 machines of 16 cores", *(hours / 32 for hours in cores))
    check_row(page, "hours on 32 machines of 16 cores", *(hours / 512 for hours in cores))
    work = [one[f"S{n}"] * one[f"B{n}"] * one[f"T{n}"] for n in (1, 2, 3)]
    for label, tflop in [*((f"stage {n} | {work[n - 1] / 1e6:.1f} ", work[n - 1]) for n in (1, 2, 3))]:
        check_row(page, label, *(tflop / speed / 3600 for speed in speeds))
    check_row(page, f"together | {sum(work) / 1e6:.1f} ", *(sum(work) / speed / 3600 for speed in speeds))
    for n in (2, 3):
        tflop = [count / 12 * one[f"T{n}"] for count in frames]
        (row,) = re.findall(rf"^\| stage {n} \| ([\d ]+) \| ([\d ]+) \|$", page, re.M)
        assert all(agrees(cell, of / speeds[0] / 3600) for cell, of in zip(row, tflop, strict=True)), row
    check_row(page, "encoding all frames", *(n * one["E"] / speeds[0] / 3600 for n in frames))
    stored = {"video": "v", "audio features": "w", "sound": "q", "latents": "l"}
    small, large = ({name: n * one[of] for name, of in stored.items()} for n in frames)
    for name in stored:
        check_row(page, f"{name}, N x", small[name] / 1e9, large[name] / 1e12)
    every, kept = (sum(small.values()), sum(large.values())), (small["latents"], large["latents"])
    check_row(page, f"together | {every[0] / 1e12:.2f} TB ", every[1] / 1e12)
    check_row(page, "without latents", (every[0] - kept[0]) / 1e9, (every[1] - kept[1]) / 1e12)
    clip = [one["C"], (MODEL["clip_tflop"] - 25 * 2 * MODEL["step_tflop"]) / 1000]
    for label, pflop in zip(("ddim 40", "dpm++ 15"), clip, strict=True):
        check_row(page, label, *(25 / 12 * pflop * 1000 / speed for speed in speeds))
    kept_by = re.search(r"(\d+) GB in stage 1, ([\d.]+) in stage 2, ([\d.]+) in stage 3", page).groups()
    for n, shown in zip((1, 2, 3), kept_by, strict=True):
        assert agrees(shown, TRAIN["memory"][f"stage {n}"]["state_gib"] * 4 / 3 * 2**30 / 1e9), f"checkpoint {n}"


def test_the_numbers_are_what_the_formulas_give():
    check_page(PAGE)


@pytest.mark.parametrize(
    "slip",
    [
        ("| 0.0191 |", "| 0.0291 |"),
        ("| 6 080 |", "| 6 180 |"),
        ("| 11.9 |", "| 12.9 |"),
        ("5.14, 39.6", "5.24, 39.6"),
        ("| 14.2 |", "| 14.4 |"),
        ("| 708 |", "| 705 |"),
        ("| 16.6 TB |", "| 15.6 TB |"),
        ("| 52.6 TB |", "| 51.6 TB |"),
        ("| 7.3 |", "| 7.0 |"),
        ("8.5 in stage 2", "14 in stage 2"),
    ],
)
def test_a_slip_is_found(slip):
    assert slip[0] in PAGE
    with pytest.raises((AssertionError, ValueError)):
        check_page(PAGE.replace(*slip))
