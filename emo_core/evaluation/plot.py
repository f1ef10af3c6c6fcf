"""The report as pictures."""

from pathlib import Path

import numpy as np

from emo_core.evaluation.motion import SPEED_EDGES
from emo_core.evaluation.report import KEYS, Report
from emo_data.whole import whole_file

_SCATTERED = ("sync_confidence", "sync_offset", "fsim", "velocity_mean", "velocity_variance")


def plot_speeds(report: Report, out: Path) -> None:
    """How often the head turns how fast, generated against truth. PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axis = figure.subplots()
    for side, counts in report.speed_frames.items():
        total = max(sum(counts), 1)
        axis.stairs(np.array(counts) / total, SPEED_EDGES, label=f"{side}, {sum(counts)} frames")
    axis.set(xlabel="head speed, degrees per frame at 25 fps", ylabel="share of frames")
    axis.legend()
    with whole_file(out) as unfinished:
        figure.savefig(unfinished, dpi=120, format="png")


def plot_clips(report: Report, out: Path) -> None:
    """Each number of each clip, generated over truth; a clip on the line is like its truth. PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * len(_SCATTERED), 3.4), layout="constrained")
    for axis, key in zip(figure.subplots(1, len(_SCATTERED)), _SCATTERED, strict=True):
        both = [
            (getattr(clip.truth, key), getattr(clip.generated, key))
            for clip in report.clips
            if clip.truth is not None and clip.generated is not None
        ]
        points = np.array([pair for pair in both if None not in pair], dtype=float)
        axis.set(title=f"{key}\n{_measured_by(key, report)}", xlabel="truth", ylabel="generated")
        if len(points):
            axis.axline((points.mean(), points.mean()), slope=1, linewidth=0.5, color="grey")
            axis.plot(*points.T, "o", markersize=3, alpha=0.6)
    with whole_file(out) as unfinished:
        figure.savefig(unfinished, dpi=120, format="png")


def _measured_by(key: str, report: Report) -> str:
    """The extractor's name: a plot is looked at without its page."""
    metric = next(metric for metric, keys in KEYS.items() if key in keys)
    one = report.extractors.get("faces" if metric == "motion" else metric)
    return one["name"] if one and metric in report.counted else "not asked for"
