"""A picture for each of the paper's claims. Everything is written as a PNG, whole or not at all."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emo_core.evaluation.ablation import WITHOUT, AblationReport
from emo_core.evaluation.claims import Film, change
from emo_data.schema import FPS
from emo_data.whole import whole_file


def plot_mouths(films: Sequence[Film], out: Path) -> None:
    """Mouth and loudness along the first ten seconds of each, both about 0 and in units of their deviation."""
    figure, axes = _figure(len(films), 1, 10, 1.5)
    for axis, film in zip(axes, films, strict=True):
        time = np.arange(min(len(film.pictures), 10 * FPS)) / FPS
        for name, values in (("loudness of the voice", film.loudness), ("mouth", film.opening)):
            shown = values[: len(time)]
            if np.isfinite(shown).sum() < 2:
                continue  # nothing was seen
            axis.plot(time, (shown - np.nanmean(shown)) / np.nanstd(shown), label=name, linewidth=1)
        axis.set(xlim=(0, time[-1]), yticks=[])
    axes[0].legend(loc="upper right", ncols=2)
    axes[-1].set(xlabel="seconds")
    _save(figure, out)


def plot_changes(pairs: Sequence[tuple[Film, Film]], out: Path) -> None:
    """A frame of each pair, and beside it where another voice changes the picture."""
    figure, axes = _figure(len(pairs), 2, 3, 2.6)
    for (left, right), pair in zip(axes.reshape(-1, 2), pairs, strict=True):
        left.imshow(pair[0].pictures[len(pair[0].pictures) // 2])
        drawn = right.imshow(change(*pair), cmap="magma")
        figure.colorbar(drawn, ax=right)
    for axis in axes.flat:
        axis.set_axis_off()
    axes.flat[1].set_title("mean difference, of 255")
    _save(figure, out)


def plot_speeds(report: AblationReport, floor: float, out: Path) -> None:
    """Every seed's velocity under each assigned one, and the variance."""
    assigned = [row for row in report.rows if row.condition != WITHOUT]
    figure, axes = _figure(1, 2, 4.5, 3.5)
    places = {row.condition: place for place, row in enumerate(assigned)}
    of_seed: dict[str, list[float]] = {}
    for one in report.videos:
        if one.condition in places and one.velocity_mean is not None:
            seed = of_seed.setdefault(one.video.rpartition("_")[2], [np.nan] * len(places))
            seed[places[one.condition]] = one.velocity_mean
    for values in of_seed.values():
        axes[0].plot(range(len(values)), values, "o-", markersize=3, linewidth=0.7, alpha=0.7)
    axes[0].axhline(floor, color="black", linestyle="dashed", linewidth=0.8, label="a still head that speaks")
    axes[0].set(ylabel="measured, degrees per frame", xlabel="assigned, degrees per frame", ylim=(0, None))
    axes[0].set_xticks(range(len(assigned)), [row.condition for row in assigned])
    axes[0].legend()
    names = ["no speed layers" if row.condition == WITHOUT else row.condition for row in report.rows]
    axes[1].bar(
        names,
        [np.nan if row.velocity_variance is None else row.velocity_variance for row in report.rows],
        color="tab:grey",
    )
    axes[1].set(ylabel="velocity variance within a video")
    _save(figure, out)


def plot_joins(films: Mapping[str, Film], clip_frames: int, out: Path) -> None:
    """How much each frame differs from the one before, with lines where clips meet."""
    figure, axes = _figure(len(films), 1, 10, 2)
    most = 0.0
    for axis, (name, film) in zip(axes, films.items(), strict=True):
        moved = np.abs(np.diff(film.pictures[:200].astype(np.int16), axis=0)).mean(axis=(1, 2, 3))
        most = max(most, float(moved.max()))
        axis.plot(np.arange(1, len(moved) + 1), moved, linewidth=1)
        for join in range(clip_frames, len(moved), clip_frames):
            axis.axvline(join, color="tab:red", linewidth=0.5, alpha=0.6)
        axis.set(title=name, ylabel="of 255")
    for axis in axes:
        axis.set(ylim=(0, 1.05 * most))
    _save(figure, out)


def plot_intervals(found: Mapping[str, tuple[float, tuple[float, float]]], bar: float, title: str, out: Path) -> None:
    """Numbers with their 95 % intervals, and the bar that is theirs."""
    figure, (axis,) = _figure(1, 1, 5, 0.8 + 0.5 * len(found))
    for place, (value, (low, high)) in enumerate(found.values()):
        if np.isfinite(value):
            axis.errorbar(value, place, xerr=[[max(value - low, 0)], [max(high - value, 0)]], fmt="o", capsize=4)
    axis.axvline(bar, color="black", linestyle="dashed", linewidth=0.8)
    axis.set(ylim=(-0.5, len(found) - 0.5), xlabel=title)
    axis.set_yticks(range(len(found)), list(found))
    _save(figure, out)


def _figure(rows: int, columns: int, width: float, height: float) -> tuple[Any, np.ndarray]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).reshape(-1)


def _save(figure: Any, out: Path) -> None:
    with whole_file(out) as unfinished:
        figure.savefig(unfinished, dpi=110, format="png")
