"""metrics.jsonl as a picture."""

from pathlib import Path

import numpy as np

from emo_core.training.record import read_metrics
from emo_data.objects import Folder
from emo_data.whole import whole_file


def plot_losses(runs: dict[str, str], out: Path) -> None:
    """One picture per run, its loss smoothed over a fiftieth of it; dots: held-out people. runs: title -> RUN."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(runs), 3), layout="constrained")
    for axis, (title, run) in zip(figure.subplots(1, len(runs), squeeze=False)[0], runs.items(), strict=True):
        lines = read_metrics(Folder(run))
        if not lines:  # it ended in its first step
            continue
        steps, losses = np.array([(line["step"], line["loss"]) for line in lines]).T
        width = max(1, len(losses) // 50)
        axis.plot(steps, losses, linewidth=0.5, alpha=0.3)
        axis.plot(steps[width - 1 :], np.convolve(losses, np.ones(width) / width, "valid"))
        held_out = [(line["step"], line["validation_loss"]) for line in lines if "validation_loss" in line]
        if held_out:
            axis.plot(*zip(*held_out, strict=True), "o", markersize=3, label="held-out people")
            axis.legend()
        axis.set(title=title, xlabel="step", ylabel="loss", yscale="log")
    with whole_file(out) as unfinished:
        figure.savefig(unfinished, dpi=120)
