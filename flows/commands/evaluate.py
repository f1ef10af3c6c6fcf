"""The command that scores generated videos, and lets a model speak to be measured."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from emo_data.errors import UserError
from flows.commands.model import bench
from flows.commands.options import Json, choose_device, say

if TYPE_CHECKING:
    from emo_core.inference.sampling import Sampling

SCORE, SPEAK = "Score videos", "Let a model speak"
Ablation = Literal["speed", "region"]
"""As in `emo_core.evaluation.ablation`, which is too heavy for `--help`; a test compares them."""


def evaluate(
    context: typer.Context,
    generated: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=SCORE, metavar="DIR|MANIFEST", help="Score these: videos, or CSV, JSONL, Parquet of them."
        ),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=SCORE,
            metavar="DIR|MANIFEST",
            help="What they are compared with; unless --generated has it as a column.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="REPORT.json|DIR", help="The report, with a page and plots beside it; DIR for --ablation."
        ),
    ] = None,
    metrics: Annotated[
        str, typer.Option(rich_help_panel=SCORE, help="Some of these.")
    ] = "fid,fvd,sync,fsim,efid,motion",
    weights: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=SCORE,
            metavar="DIR",
            help="Standard networks and their SHA256SUMS; what is not there is done offline.",
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(rich_help_panel=SCORE, min=0, help="Ray workers: one for each core; 0: without Ray.")
    ] = None,
    address: Annotated[
        str,
        typer.Option(
            rich_help_panel=SCORE,
            metavar="local|auto|HOST:PORT",
            help="A Ray of its own, the one of this machine, another.",
        ),
    ] = "local",
    model: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=SPEAK, metavar="MODEL", help="Let this model speak instead: with --ablation or --gallery."
        ),
    ] = None,
    ablation: Annotated[
        Ablation | None,
        typer.Option(
            rich_help_panel=SPEAK, help="The paper's Table 2 or Figure 7: what an assigned speed or region does."
        ),
    ] = None,
    gallery: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=SPEAK,
            metavar="DIR",
            help="The paper's Figures 4 and 5: one voice, many portraits; a minute of song.",
        ),
    ] = None,
    without_speed: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=SPEAK, metavar="MODEL", help="Of stage 2, for the row of Table 2 without speed layers."
        ),
    ] = None,
    portrait: Annotated[
        list[Path] | None,
        typer.Option(rich_help_panel=SPEAK, metavar="IMG|DIR", help="Again for each; else faces made in code."),
    ] = None,
    audio: Annotated[
        list[Path] | None,
        typer.Option(rich_help_panel=SPEAK, metavar="SOUND|DIR", help="Again for each; else voices made in code."),
    ] = None,
    song: Annotated[
        Path | None, typer.Option(rich_help_panel=SPEAK, metavar="SOUND", help="For --gallery; else one made in code.")
    ] = None,
    clips: Annotated[
        int, typer.Option(rich_help_panel=SPEAK, min=1, help="Videos under each condition of an ablation.")
    ] = 10,
    steps: Annotated[
        int, typer.Option(rich_help_panel=SPEAK, min=1, max=1000, help="Denoising steps per clip, for --model.")
    ] = 40,
    reference_scale: Annotated[
        float, typer.Option(rich_help_panel=SPEAK, min=0, help="As of `emo generate`, for --model.")
    ] = 2.0,
    audio_scale: Annotated[
        float, typer.Option(rich_help_panel=SPEAK, min=0, help="As of `emo generate`, for --model.")
    ] = 2.0,
    device: Annotated[
        str | None, typer.Option(metavar="auto|cpu|cuda", help="What to compute on: cpu for scoring, else auto.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Generated videos against ground truth: FID, FVD, sync, F-SIM, E-FID, head motion. Or a model's ablations."""
    if model is None:
        _refuse(context, [name for name, panel in _panels(context).items() if panel == SPEAK], "only with --model")
        if generated is None or out is None:
            raise UserError(
                "give --generated (and --truth) with --out, or --model with --ablation and --out, or --gallery"
            )
        _score(generated, truth, out, metrics, weights, workers, address, device or "cpu", as_json)
        return
    _refuse(context, [name for name, panel in _panels(context).items() if panel == SCORE], "only without --model")
    if gallery is None:
        _refuse(context, ["song"], "only with --gallery")
    if ablation is None:
        _refuse(context, ["clips"], "only with --ablation")
    if ablation != "speed":
        _refuse(context, ["without_speed"], "only with --ablation speed")
    from emo_core.inference.sampling import Sampling

    sampling, device = Sampling(steps, reference_scale, audio_scale), device or "auto"
    for place in (gallery, out):
        if place is not None and place.exists() and not place.is_dir():
            raise UserError(f"{place}: is a file; name a folder")
    if gallery is not None and ablation is None and out is None:
        _gallery(model, gallery, portrait, audio, song, sampling, device, as_json)
    elif ablation is not None and gallery is None and out is not None:
        _ablate(model, ablation, without_speed, portrait, audio, clips, sampling, out, device, as_json)
    else:
        raise UserError("--model: give --ablation speed or region with --out DIR, or --gallery DIR")


def _panels(context: typer.Context) -> dict[str, str]:
    """The help's panel that each option stands in."""
    return {str(one.name): getattr(one, "rich_help_panel", None) or "" for one in context.command.params}


def _was_typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)  # typer has a click of its own, whose names are not for others
    return source is not None and source.name == "COMMANDLINE"


def _refuse(context: typer.Context, names: list[str], why: str) -> None:
    """UserError where somebody typed one of these options: nothing that is asked for goes unheard."""
    typed = [one.opts[0] for one in context.command.params if one.name in names and _was_typed(context, one.name)]
    if typed:
        raise UserError(f"{', '.join(typed)}: {why}")


def _score(
    generated: Path,
    truth: Path | None,
    out: Path,
    metrics: str,
    weights: Path | None,
    workers: int | None,
    address: str,
    device: str,
    as_json: bool,
) -> None:
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


def _ablate(
    model: str,
    ablation: Ablation,
    without_speed: str | None,
    portrait: list[Path] | None,
    audio: list[Path] | None,
    clips: int,
    sampling: "Sampling",
    out: Path,
    device: str,
    as_json: bool,
) -> None:
    from emo_core.evaluation.ablation import Cast, ablate_region, ablate_speed
    from emo_core.evaluation.casting import cast_of
    from emo_core.evaluation.exhibit import write_ablation
    from emo_core.inference.generate import load_pipeline
    from flows.progress import progress

    chosen = choose_device(device)
    loaded = load_pipeline(model, chosen)
    cast = Cast(*cast_of(portrait, audio, out / "cast"), clips)
    with progress(f"ablation {ablation}") as report:
        if ablation == "speed":
            without = None if without_speed is None else load_pipeline(without_speed, chosen)
            found = ablate_speed(loaded, without, cast, sampling, out, report)
        else:
            found = ablate_region(loaded, cast, sampling, out, report)
        files = write_ablation(found, out)
    lines = []
    for row in found.rows:
        told = [(key, getattr(row, key)) for key in ("velocity_mean", "velocity_variance", "vmv", "travel_across")]
        numbers = "".join(f"   {key} {'-' if value is None else format(value, '.4f')}" for key, value in told)
        lines.append(f"{row.condition:8s}{row.counted} of {row.videos} clips{numbers}")
    troubled = [one for one in found.videos if one.problem]
    for one in troubled:
        print(f"problem: {one.video}: {one.problem}", file=sys.stderr)
    say(found.model_dump(), [*lines, f"written: {', '.join(map(str, files))}"], as_json)
    if troubled:
        raise typer.Exit(1)


def _gallery(
    model: str,
    out: Path,
    portrait: list[Path] | None,
    audio: list[Path] | None,
    song: Path | None,
    sampling: "Sampling",
    device: str,
    as_json: bool,
) -> None:
    from emo_core.evaluation.casting import cast_of, song_of
    from emo_core.evaluation.gallery import make_gallery
    from emo_core.inference.generate import load_pipeline
    from flows.progress import progress

    loaded = load_pipeline(model, choose_device(device))
    portraits, voices = cast_of(portrait, audio, out / "cast")
    with progress("gallery") as report:
        files = make_gallery(loaded, portraits, voices[0], song_of(song, out / "cast"), sampling, out, report)
    say({"files": [str(file) for file in files]}, [f"written: {', '.join(map(str, files))}"], as_json)


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
