"""Commands that make a dataset and look into it."""

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import typer

from emo_data.errors import UserError
from flows.commands.options import DatasetArgument, Json, say, whole

data = typer.Typer(help="Look into a dataset.", no_args_is_help=True)


def sample(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    clips: Annotated[int, typer.Option(min=1, help="How many clips to train on.")] = 8,
    seconds: Annotated[float, typer.Option(min=1, help="Length of each clip.")] = 8.0,
    seed: Annotated[int, typer.Option(min=0, help="Another seed makes other motions and voices.")] = 0,
    looks: Annotated[int, typer.Option(min=1, max=1000, help="How many people take turns.")] = 6,
    as_json: Json = False,
) -> None:
    """Talking-head clips made in code, with their truth in truth.json."""
    from emo_data.synthetic import write_sample
    from flows.progress import progress

    with progress("sample") as report:
        write_sample(folder, clips=clips, seconds=seconds, seed=seed, looks=looks, on_progress=report)
    say({"folder": str(folder), "clips": clips, "seconds": seconds}, [f"{clips} clips in {folder}"], as_json)


def ingest(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="Video files, folders or globs.")],
    out: Annotated[str, typer.Option(metavar="DATASET", help="A new dataset, or one made with the same options.")],
    fps: Annotated[float | None, typer.Option(help="Frames per second of the stored clips: 25.")] = None,
    size: Annotated[int | None, typer.Option(help="Pixels per side of the stored picture: 512.")] = None,
    min_seconds: Annotated[float | None, typer.Option(help="Shortest clip: 2.")] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Longest clip: 10.")] = None,
    audio_model: Annotated[
        str | None,
        typer.Option(metavar="DIR|ID|tiny", help="wav2vec2: facebook/wav2vec2-base-960h; tiny needs no file."),
    ] = None,
    audio_layers: Annotated[str | None, typer.Option(metavar="all|7,8,9", help="Hidden states to store: all.")] = None,
    identity_pattern: Annotated[
        str | None, typer.Option(metavar="REGEX", help="Its one group, found in a file's name, is who speaks.")
    ] = None,
    test_share: Annotated[float | None, typer.Option(help="Share of identities that are held out: 0.1.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Ray workers: as many as cores and memory allow; 0: without Ray.")
    ] = None,
    address: Annotated[
        str, typer.Option(metavar="local|auto|HOST:PORT", help="A Ray of its own, the one of this machine, another.")
    ] = "local",
    listeners: Annotated[
        int, typer.Option(min=0, help="Ray workers with a GPU each that do nothing but wav2vec2.")
    ] = 0,
    chunk_seconds: Annotated[
        float | None, typer.Option(help="A longer source is worked at in parts, side by side: 300.")
    ] = None,
    retry_faults: Annotated[
        bool, typer.Option("--retry-faults", help="Do again what crashed, hung or took all memory.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Videos become rows: find the face, crop, measure, hear, store. Again does only what is missing."""
    from pydantic import ValidationError

    from emo_data.ingest.config import IngestConfig
    from emo_data.ingest.run import CrewOf, alone, ingest
    from flows.progress import progress

    if address != "local":
        out = whole(out)
        audio_model = whole(audio_model) if audio_model and Path(audio_model).is_dir() else audio_model
    given = {
        "fps": fps,
        "size": size,
        "min_seconds": min_seconds,
        "max_seconds": max_seconds,
        "audio_model": audio_model,
        "audio_layers": None if audio_layers is None else _layers(audio_layers),
        "identity_pattern": identity_pattern,
        "test_share": test_share,
        "chunk_seconds": chunk_seconds,
    }
    try:
        config = IngestConfig.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        option = "".join(f"--{name} ".replace("_", "-") for name in first["loc"][:1])
        raise UserError(f"{option}{first['msg']}") from error
    if workers == 0:
        if listeners or address != "local":
            raise UserError("--workers 0 does without Ray: leave --address and --listeners out")
        crew: CrewOf = alone
    else:
        from emo_data.ingest.on_ray import ray_crew, workers_here

        crew = ray_crew(workers or workers_here(), address, listeners)
    summary = ingest(sources, out, config, crew=crew, phase=progress, retry_faults=retry_faults)
    lines = [f"{summary.clips} clips ({summary.hours * 3600:.0f} s) from {summary.sources} sources added to {out}"]
    lines += [f"{summary.already_done} sources were done before"] if summary.already_done else []
    lines += [f"{len(summary.copies)} sources are copies of others"] if summary.copies else []
    lines += [f"{summary.changed} sources changed while they were read; call again"] if summary.changed else []
    lines += [f"rejected, {reason}: {count}" for reason, count in summary.rejections.items()]
    say(summary.model_dump(), lines, as_json)


@data.command()
def info(dataset: DatasetArgument, as_json: Json = False) -> None:
    """What a dataset holds: clips, hours, identities, splits, sound, rejections by reason."""
    from flows.survey import describe

    found = describe(dataset)
    lines = [
        f"{found['clips']} clips, {found['hours']:.3f} h, {found['identities']} identities, {found['sources']} sources"
    ]
    lines += [f"{split}: {n['clips']} clips, {n['identities']} identities" for split, n in found["splits"].items()]
    lines += [f"sound {state}: {count}" for state, count in found["sound"].items()]
    lines += [f"rejected, {reason}: {count}" for reason, count in found["rejections"].items()]
    edges, frames = found["speeds"]["edges"], found["speeds"]["frames"]
    if any(frames):
        lines += ["head speed, degrees per frame:"]
        lines += [
            f"  {low:4.1f} - {high:4.1f}  {count / sum(frames):6.1%}  {'#' * round(50 * count / max(frames))}"
            for (low, high), count in zip(pairwise(edges), frames, strict=True)
        ]
    say(found, lines, as_json)


@data.command()
def report(
    dataset: DatasetArgument,
    out: Annotated[Path, typer.Option(metavar="HTML", help="The page that is written.")],
    most: Annotated[int, typer.Option(min=1, help="Clips, and rejections of each reason, to show.")] = 60,
    as_json: Json = False,
) -> None:
    """A page of pictures: what was accepted, and what was rejected and why."""
    from emo_data.dataset.report import write_report

    if out.suffix.lower() not in (".html", ".htm") or not out.parent.is_dir():
        raise UserError(f"--out {out}: must end in .html and lie in a folder that exists")
    pictures = write_report(dataset, out, most)
    say({"report": str(out), "pictures": pictures}, [f"{pictures} pictures in {out}"], as_json)


@data.command()
def verify(dataset: DatasetArgument, as_json: Json = False) -> None:
    """Read every commit record, checksum and schema again; exit code 1 if anything is wrong."""
    from emo_data.store import Dataset
    from flows.progress import progress

    opened = Dataset.open(dataset)
    with progress("verify") as told:
        problems = opened.verify(told)
    sources = len(opened.commits()) if not problems else None
    say({"dataset": dataset, "problems": problems}, problems or [f"{sources} sources, nothing is wrong"], as_json)
    if problems:
        raise typer.Exit(1)


@data.command()
def testset(
    dataset: DatasetArgument,
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder.")],
    clips: Annotated[int | None, typer.Option(min=1, help="How many are drawn: all.")] = None,
    seconds: Annotated[float | None, typer.Option(min=1, help="Of each, from a place that is drawn: whole.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    keep: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN<NUMBER", help="As of `emo train`, e.g. 'yaw_range>=15'.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Held-out clips as files: truth, portraits, voices, and manifests for `emo batch` and `emo evaluate`."""
    from emo_data.dataset.testset import write_testset
    from flows.progress import progress

    with progress("testset") as report:
        written = write_testset(dataset, out, clips, seconds, seed, keep or [], report)
    say({"folder": str(out), "clips": written}, [f"{written} clips in {out}"], as_json)


@data.command()
def speed_buckets(
    dataset: DatasetArgument,
    buckets: Annotated[int, typer.Option(min=2, help="How many.")] = 9,
    as_json: Json = False,
) -> None:
    """Centres and radii of the head speeds in the training split, as stage 3 fits them."""
    from flows.survey import fitted_buckets

    centres, radii = fitted_buckets(dataset, buckets)
    lines = [f"centre {c:.3f}  radius {r:.3f}  degrees per frame" for c, r in zip(centres, radii, strict=True)]
    say({"centres": centres, "radii": radii}, lines, as_json)


def _layers(text: str) -> Literal["all"] | list[int]:
    if text == "all":
        return "all"
    try:
        return [int(number) for number in text.split(",")]
    except ValueError as error:
        raise UserError(f"--audio-layers {text}: give all, or numbers such as 7,8,9") from error
