"""The report for a person: Table 1 and Table 2 of the paper with our row beside the paper's, in Markdown."""

from typing import NamedTuple

from emo_core.evaluation.report import Report


class Row(NamedTuple):
    """FID, SyncNet confidence, F-SIM, FVD, E-FID; None where the paper has none."""

    method: str
    fid: float | None
    sync_confidence: float | None
    fsim: float | None
    fvd: float | None
    efid: float | None


HDTF = (
    Row("Wav2Lip", 9.38, 5.79, 80.34, 407.93, 0.693),
    Row("SadTalker", 10.31, 4.82, 84.56, 214.98, 0.503),
    Row("DreamTalk", 58.80, 3.43, 67.87, 619.05, 2.257),
    Row("MakeItTalk", 21.73, 2.85, 76.91, 350.96, 1.072),
    Row("ground truth", None, 7.3, 77.44, None, None),
    Row("EMO without the 250 h", 10.80, 5.02, 79.55, 102.78, 0.215),
    Row("EMO", 8.76, 3.89, 78.96, 67.66, 0.116),
)
INTERNET = (
    Row("Wav2Lip", 31.70, 4.14, 78.87, 487.00, 0.652),
    Row("SadTalker", 31.37, 2.90, 81.86, 418.19, 0.539),
    Row("DreamTalk", 88.21, 1.29, 56.38, 584.63, 3.548),
    Row("MakeItTalk", 39.86, 1.64, 60.12, 340.55, 0.997),
    Row("ground truth", None, 2.69, 72.64, None, None),
    Row("EMO", 17.33, 2.74, 77.16, 192.77, 0.187),
)
"""EMO Table 1, its two halves."""
SPEEDS = (
    ("EMO, no speed layers", 1.365, 1.002, 0.134),
    ("EMO, speed 0.1", 0.878, 0.357, 0.046),
    ("EMO, speed 0.7", 1.001, 0.454, 0.054),
    ("EMO, speed 1.3", 1.162, 0.550, 0.057),
    ("EMO, speed 1.9", 1.246, 0.657, 0.058),
)
"""EMO Table 2: mean velocity, velocity variance, VMV."""
_COLUMNS = {"FID ↓": "fid", "SyncNet ↑": "sync", "F-SIM": "fsim", "FVD ↓": "fvd", "E-FID ↓": "efid"}
_KEYS = {"fid": "fid", "sync": "sync_confidence", "fsim": "fsim", "fvd": "fvd", "efid": "efid"}

_OTHERS = (
    ("sync offset, frames that the sound is late", "sync_offset", "sync"),
    ("sync distance", "sync_distance", "sync"),
    ("region containment (Figure 7), share of the face", "region_containment", "faces"),
)
"""What it is, its key, whose extractor measured it."""


def markdown(report: Report, title: str) -> str:
    """The whole page."""
    parts = [f"# {title}", _counted(report), _measured(report), _table_1(report), _offline(report), _table_2(report)]
    parts += [_others(report), _samples(report), _troubles(report)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _counted(report: Report) -> str:
    clips = len(report.clips)
    told = ", ".join(f"{metric} {count}" for metric, count in report.counted.items())
    return f"{clips} clips; counted for each metric: {told}." + (
        f" **{len(report.troubled)} clips have problems**, listed below." if report.troubled else ""
    )


def _measured(report: Report) -> str:
    """Frames, resolutions, sampling and crop."""
    told = report.settings
    sides = [
        f"{side}: {told['frames'][side]} frames of {', '.join(told['resolutions'][side])}" for side in told["frames"]
    ]
    notes = sum(bool(clip.notes) for clip in report.clips)
    return (
        f"{'; '.join(sides)}. {told['fps']} frames per second ({told['sampling']}), crop: {told['crop']}; FVD: "
        f"{told['fvd_frames']} frames, a new clip every {told['fvd_stride']}."
        + (f" {notes} clips have notes (frames without a face, other lengths), which the JSON has." if notes else "")
    )


def _table_1(report: Report) -> str:
    """Only what the standard networks measured stands beside the paper's numbers."""
    standard = {metric for metric, one in report.extractors.items() if one["standard"]}
    ours = {_KEYS[m]: report.metrics[_KEYS[m]] if m in standard else None for m in _KEYS}
    truth = {_KEYS[m]: report.ground_truth.get(_KEYS[m]) if m in standard else None for m in _KEYS}
    rows = [_line("**here**, ground truth", truth), _line("**here**", ours)]
    head = head_of(["method", *_COLUMNS])
    halves = [
        f"### {name}\n\n{head}\n" + "\n".join([*(_line(row.method, row._asdict()) for row in half), *rows])
        for name, half in (
            ("HDTF, as the paper reports it", HDTF),
            ("Internet clips, as the paper reports it", INTERNET),
        )
    ]
    note = (
        "F-SIM is best where it is nearest to the ground truth's, not where it is highest. Other test clips give other "
        "numbers: only rows on the same clips compare. A number is here only where the standard network measured it."
    )
    return "\n\n".join(["## Table 1", note, *halves])


def _offline(report: Report) -> str:
    offline = [metric for metric in _KEYS if metric in report.extractors and not report.extractors[metric]["standard"]]
    if not offline:
        return ""
    rows = [
        f"| {metric} | {report.extractors[metric]['name']} | {number(report.metrics[_KEYS[metric]])} "
        f"| {number(report.ground_truth.get(_KEYS[metric]))} |"
        for metric in offline
    ]
    note = (
        "**These are not the paper's metrics**: extractors that need no download measured them. They compare videos "
        "that were scored with the same extractors, and with nothing in the tables above."
    )
    head = head_of(["metric", "extractor", "generated", "ground truth"])
    return "\n\n".join(["## By offline extractors", note, "\n".join([head, *rows])])


def _table_2(report: Report) -> str:
    if "motion" not in report.counted:
        return ""
    keys = ("velocity_mean", "velocity_variance", "vmv")
    lines = [cells([name, *map(number, numbers)]) for name, *numbers in SPEEDS]
    for name, found in (("**here**, ground truth", report.ground_truth), ("**here**", report.metrics)):
        lines.append(cells([name, *(number(found.get(key)) for key in keys)]))
    head = head_of(["videos", "mean velocity", "velocity variance", "VMV"])
    note = (
        "Degrees per frame at 25 fps, by MediaPipe's landmarks, smoothed over 7 frames; the paper does not say how it "
        "smooths."
    )
    return "\n\n".join(["## Table 2", note, "\n".join([head, *lines])])


def _others(report: Report) -> str:
    """What no table of the paper has."""
    rows = [
        cells(
            [
                what,
                report.extractors[by]["name"],
                *(number(side.get(key)) for side in (report.metrics, report.ground_truth)),
            ]
        )
        for what, key, by in _OTHERS
        if by in report.extractors and report.metrics.get(key) is not None
    ]
    head = head_of(["number", "by", "generated", "ground truth"])
    return "## Also measured\n\n" + "\n".join([head, *rows]) if rows else ""


def _samples(report: Report) -> str:
    """How much of the Fréchet distances few samples make up."""
    rows = [
        cells(
            [metric, report.extractors[metric]["name"], f"{found.generated_rows} / {found.truth_rows}"]
            + [number(value) for value in (found.value, found.at_half, found.at_quarter, found.extrapolated)]
        )
        for metric, found in report.samples.items()
    ]
    head = head_of(["metric", "by", "generated / truth features", "value", "at a half", "at a quarter", "extrapolated"])
    note = "Few features make a distance too great, by about b / N: it is where a half of them gives more."
    return "\n\n".join(["## How much there is", note, "\n".join([head, *rows])]) if rows else ""


def _troubles(report: Report) -> str:
    told = [
        f"- `{clip.name}` (left out of {', '.join(clip.left_out)}): {'; '.join(clip.problems)}"
        for clip in report.troubled
    ]
    return "## Problems\n\n" + "\n".join(told) if told else ""


def _line(method: str, numbers: dict[str, float | None]) -> str:
    places = {metric: 3 if metric == "efid" else 2 for metric in _COLUMNS.values()}  # as the paper
    return cells([method, *(number(numbers.get(_KEYS[metric]), places[metric]) for metric in places)])


def number(value: float | None, places: int = 3) -> str:
    """A cell's text; a dash for what is not known."""
    return "–" if value is None else f"{value:.{places}f}"


def head_of(names: list[str]) -> str:
    """A table's first two lines."""
    return cells(names) + "\n" + cells(["---"] * len(names))


def cells(texts: list[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(texts)} |"
