"""Ablations and galleries as pages and pictures: what a person looks at first."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from emo_core.evaluation.ablation import WITHOUT, AblationReport, box_of
from emo_core.evaluation.table import SPEEDS, cells, head_of, number
from emo_core.inference.export import contact_sheet, save_picture
from emo_data.video import probe, read_pictures
from emo_data.whole import whole_file

SIDE = 160
"""Pixels of a picture on a sheet."""
COLUMNS = 10


def write_ablation(report: AblationReport, out: Path) -> list[Path]:
    """OUT/report.json, report.md, plot.png and sheet.png."""
    told, read, plot, sheet = files = [out / name for name in ("report.json", "report.md", "plot.png", "sheet.png")]
    for path, text in ((told, report.model_dump_json(indent=1)), (read, page(report))):
        with whole_file(path) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    plot_ablation(report, plot)
    first = {one.condition: one for one in reversed(report.videos)}
    rows = [
        (row.condition, out / first[row.condition].video, box_of(first[row.condition].region)) for row in report.rows
    ]
    write_rows(rows, sheet)
    return files


def page(report: AblationReport) -> str:
    """The report for a person, in Markdown: speeds in the layout of the paper's Table 2."""
    sides = {"speed": _speed_table, "region": _region_table}
    lines = [f"# Ablation: {report.ablation}", "", sides[report.ablation](report), ""]
    lost = [f"- `{one.video}`: {one.problem}" for one in report.videos if one.problem]
    lines += ["## Videos that do not count", "", *lost, ""] if lost else []
    return "\n".join([*lines, "![frames](sheet.png)", "", "![plot](plot.png)", ""])


def _speed_table(report: AblationReport) -> str:
    names = {WITHOUT: "**here**, no speed layers"}
    table = [head_of(["videos", "mean velocity", "velocity variance", "VMV", "clips"])]
    table += [cells([name, *map(number, values), ""]) for name, *values in SPEEDS]
    for row in report.rows:
        name = names.get(row.condition, f"**here**, speed {row.condition}")
        values = (row.velocity_mean, row.velocity_variance, row.vmv)
        table.append(cells([name, *map(number, values), f"{row.counted} of {row.videos}"]))
    note = (
        "Degrees per frame at 25 fps, by MediaPipe's landmarks, smoothed over 7 frames; the paper does not say how it "
        "smooths, and other portraits and voices give other numbers: the order and the trend compare, not the values."
    )
    return f"{note}\n\n" + "\n".join(table)


def _region_table(report: AblationReport) -> str:
    table = [head_of(["region", "travel across", "travel down", "mean velocity", "face inside", "clips"])]
    for row in report.rows:
        values = (row.travel_across, row.travel_down, row.velocity_mean, row.region_containment)
        table.append(cells([row.condition, *map(number, values), f"{row.counted} of {row.videos}"]))
    note = (
        "The way of the bridge of the nose from its 5th to its 95th percentile, in widths and heights of the picture; "
        "`face inside`: share of the face's box that lies in the region."
    )
    return f"{note}\n\n" + "\n".join(table)


def plot_ablation(report: AblationReport, out: Path) -> None:
    """Every video as a dot, every condition's mean as a line. PNG."""
    from matplotlib.figure import Figure

    keys = {
        "speed": {"velocity_mean": "mean velocity, degrees per frame", "velocity_variance": "velocity variance"},
        "region": {"travel_across": "travel across, picture widths", "travel_down": "travel down, picture heights"},
    }[report.ablation]
    conditions = [row.condition for row in report.rows]
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    for axis, (key, title) in zip(figure.subplots(1, 2), keys.items(), strict=True):
        for place, row in enumerate(report.rows):
            values = [getattr(one, key) for one in report.videos if one.condition == row.condition and not one.problem]
            axis.plot([place] * len(values), values, "o", markersize=4, alpha=0.5, color="tab:blue")
        means = [np.nan if (mean := getattr(row, key)) is None else mean for row in report.rows]
        axis.plot(range(len(conditions)), means, "k_-", markersize=18, linewidth=0.8)
        axis.set(title=title, xlabel=f"assigned {report.ablation}", ylim=(0, None))
        axis.set_xticks(range(len(conditions)), conditions)
    with whole_file(out) as unfinished:
        figure.savefig(unfinished, dpi=120, format="png")


def write_rows(rows: Sequence[tuple[str, Path, np.ndarray | None]], out: Path, columns: int = COLUMNS) -> None:
    """Each video as a row of evenly chosen frames behind its name; a box (4,) in 0-1 is drawn on them. PNG."""
    pictures = []
    for name, video, box in rows:
        pictures += [_label(name), *(_framed(frame, box) for frame in frames_of(video, columns))]
    save_picture(contact_sheet(np.stack(pictures), columns=columns + 1), out)


def frames_of(video: Path, count: int) -> list[np.ndarray]:
    """`count` frames, evenly chosen, uint8 (SIDE, SIDE, 3)."""
    info = probe(video)
    wanted = np.linspace(0, len(info.pts) - 1, count).astype(int)
    places, back = np.unique(wanted, return_inverse=True)
    black = np.zeros((info.height, info.width, 3), np.uint8)
    read = [black if picture is None else picture for picture in read_pictures(info, places, "pyav")]
    shown = [np.asarray(Image.fromarray(one).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for one in read]
    return [shown[place] for place in back]


def _framed(frame: np.ndarray, box: np.ndarray | None) -> np.ndarray:
    if box is None:
        return frame
    picture = Image.fromarray(frame)
    ImageDraw.Draw(picture).rectangle([float(value) for value in box * (SIDE - 1)], outline="yellow")
    return np.asarray(picture)


def _label(text: str) -> np.ndarray:
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    ImageDraw.Draw(picture).text(
        (SIDE // 2, SIDE // 2), text, fill="black", anchor="mm", align="center", font=ImageFont.load_default(14)
    )
    return np.asarray(picture)
