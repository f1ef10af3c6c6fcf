"""The command that scores generated videos."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from emo_data.errors import UserError
from flows.commands.model import bench
from flows.commands.options import Device, Json, choose_device, say


def evaluate(
    generated: Annotated[Path, typer.Option(metavar="DIR|MANIFEST", help="Videos, or CSV, JSONL, Parquet of them.")],
    out: Annotated[
        Path, typer.Option(metavar="REPORT.json", help="Beside it: a page in the layout of the paper's tables, plots.")
    ],
    truth: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|MANIFEST", help="What they are compared with; unless --generated has it as a column."
        ),
    ] = None,
    metrics: Annotated[str, typer.Option(help="Some of these.")] = "fid,fvd,sync,fsim,efid,motion",
    weights: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Standard networks and their SHA256SUMS; what is not there is done offline."),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Ray workers: one for each core; 0: without Ray.")] = None,
    address: Annotated[
        str, typer.Option(metavar="local|auto|HOST:PORT", help="A Ray of its own, the one of this machine, another.")
    ] = "local",
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Generated videos against ground truth: FID, FVD, sync, F-SIM, E-FID, head motion."""
    from emo_core.evaluation.extractors import STANDARD, Setup, checked
    from emo_core.evaluation.pairs import find_pairs
    from emo_core.evaluation.run import HandsOf, alone, evaluate
    from emo_core.evaluation.write import check_out, write_report
    from emo_data.cores import cores
    from flows.progress import progress

    check_out(out)
    setup = Setup(
        checked([metric.strip() for metric in metrics.split(",") if metric.strip()]),
        None if weights is None else str(weights.resolve()),
        str(choose_device(device)),
    )
    pairs = find_pairs(generated, truth)
    if workers == 0:
        if address != "local":
            raise UserError("--workers 0 does without Ray: leave --address out")
        hands: HandsOf = alone
    else:
        from emo_core.evaluation.on_ray import ray_hands

        hands = ray_hands(workers or cores(), address)
    with progress("evaluate") as told:
        report = evaluate(pairs, setup, hands, told)
    files = write_report(report, out, f"{generated.name} against {truth.name if truth else 'its truth'}")
    lines = [
        f"{key:20s}{'-' if value is None else format(value, '.4g'):>10s}"
        + (f"   {report.reasons[key]}" if value is None else _side_note(report.ground_truth.get(key)))
        for key, value in report.metrics.items()
    ]
    for what, one in report.extractors.items():
        lack = None if one["standard"] else STANDARD.get(what)
        lines.append(f"{what}: {one['name']}" + (f", for want of {lack.file} ({lack.source})" if lack else ""))
    lines += [f"written: {', '.join(str(file) for file in files)}"]
    for clip in report.troubled:
        print(f"problem: {clip.name}: {'; '.join(clip.problems)}", file=sys.stderr)
    say(report.model_dump(), lines, as_json)
    if report.troubled:
        raise typer.Exit(1)


def _side_note(truth: float | None) -> str:
    return "" if truth is None else f"   ground truth {truth:.4g}"


@bench.command(name="evaluate")
def bench_evaluate(
    clips: Annotated[int, typer.Option(min=4, help="Pairs of videos that are scored.")] = 20,
    seconds: Annotated[float, typer.Option(min=2, help="Length of each.")] = 4.0,
    size: Annotated[int, typer.Option(min=128, help="Pixels per side.")] = 512,
    weights: Annotated[Path | None, typer.Option(metavar="DIR", help="As of `emo evaluate`.")] = None,
    as_json: Json = False,
) -> None:
    """Scoring videos against decoding them and extracting features alone."""
    from emo_core.bench.evaluation import bench_evaluation
    from flows.progress import progress

    with progress("bench") as report:
        found = bench_evaluation(clips, seconds, size, None if weights is None else str(weights), report)
    lines = [f"{what:20s}{1000 * spent / found.frames:8.3f} ms per frame" for what, spent in found.bare_seconds.items()]
    lines += [f"{'all of it':20s}{1000 * sum(found.bare_seconds.values()) / found.frames:8.3f} ms per frame"]
    lines += [f"{'scoring':20s}{1000 * found.line_seconds / found.frames:8.3f} ms per frame, "]
    lines[-1] += f"{found.line_over_bare:.3f} times that; {found.seconds_per_clip:.2f} s for each clip"
    say(found.model_dump(), lines, as_json)
