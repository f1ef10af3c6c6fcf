"""metrics.jsonl as a picture."""

import json
from pathlib import Path

import numpy as np

from emo_data.whole import whole_file


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a metrics.jsonl."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def plot_losses(metrics: dict[str, Path], out: Path) -> None:
    """One curve per run, each smoothed over a fiftieth of its steps. metrics: title -> metrics.jsonl."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(metrics), 3), layout="constrained")
    for axis, (title, path) in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics.items(), strict=True):
        lines = read_metrics(path)
        steps, losses = np.array([(line["step"], line["loss"]) for line in lines]).T
        width = max(1, len(losses) // 50)
        axis.plot(steps, losses, linewidth=0.5, alpha=0.3)
        axis.plot(steps[width - 1 :], np.convolve(losses, np.ones(width) / width, "valid"))
        axis.set(title=title, xlabel="step", ylabel="loss", yscale="log")
    with whole_file(out) as unfinished:
        figure.savefig(unfinished, dpi=120)
