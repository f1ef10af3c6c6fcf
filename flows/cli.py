"""The `emo` command. Heavy imports live inside the commands, so that `emo --help` answers at once."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from emo_data.errors import UserError

if TYPE_CHECKING:
    import torch

app = typer.Typer(
    name="emo",
    help="One portrait and a voice become a talking, singing video.",
    epilog="Exit code 0: done, 1: failed, 2: bad input. --debug, anywhere on the line, shows where an error arose.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

data = typer.Typer(help="Look into a dataset.", no_args_is_help=True)
app.add_typer(data, name="data")
weights = typer.Typer(help="The public weights that full-size training starts from.", no_args_is_help=True)
app.add_typer(weights, name="weights")
bench = typer.Typer(help="Speed and memory, against the same work done bare in the same run.", no_args_is_help=True)
app.add_typer(bench, name="bench")

DatasetArgument = Annotated[str, typer.Argument(metavar="DATASET")]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="What to compute on.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on stdout.")]


@app.command()
def doctor(as_json: Json = False) -> None:
    """Versions, devices, and what works on this machine."""
    from flows.doctor import examine

    found = examine()
    failed = [what for what, answer in found["checks"].items() if answer != "ok"]
    lines = [f"{found['machine']}, Python {found['python']}, {found['cores']} cores, {found['memory_gib']} GiB"]
    lines += [f"devices: {', '.join(found['devices'])}"]
    lines += [f"{name:14s}{number or 'missing'}" for name, number in found["packages"].items()]
    lines += [f"{what}: {answer}" for what, answer in found["checks"].items()]
    _say(found, lines, as_json)
    if failed:
        raise typer.Exit(1)


@app.command()
def sample(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    clips: Annotated[int, typer.Option(min=1, help="How many clips to train on.")] = 8,
    seconds: Annotated[float, typer.Option(min=1, help="Length of each clip.")] = 8.0,
    seed: Annotated[int, typer.Option(min=0, help="Another seed makes other motions and voices.")] = 0,
    looks: Annotated[int, typer.Option(min=1, max=6, help="How many people take turns.")] = 6,
    as_json: Json = False,
) -> None:
    """Talking-head clips made in code, with their truth in truth.json."""
    from emo_data.synthetic import write_sample
    from flows.progress import progress

    with progress("sample") as report:
        write_sample(folder, clips=clips, seconds=seconds, seed=seed, looks=looks, on_progress=report)
    _say({"folder": str(folder), "clips": clips, "seconds": seconds}, [f"{clips} clips in {folder}"], as_json)


@app.command()
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
    as_json: Json = False,
) -> None:
    """Videos become rows: find the face, crop, measure, hear, store. Again does only what is missing."""
    from pydantic import ValidationError

    from emo_data.ingest.config import IngestConfig
    from emo_data.ingest.run import ingest
    from flows.progress import progress

    given = {
        "fps": fps,
        "size": size,
        "min_seconds": min_seconds,
        "max_seconds": max_seconds,
        "audio_model": audio_model,
        "audio_layers": None if audio_layers is None else _layers(audio_layers),
        "identity_pattern": identity_pattern,
        "test_share": test_share,
    }
    try:
        config = IngestConfig.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        option = "".join(f"--{name} ".replace("_", "-") for name in first["loc"][:1])
        raise UserError(f"{option}{first['msg']}") from error
    with progress("ingest") as report:
        summary = ingest(sources, out, config, report)
    lines = [f"{summary.clips} clips ({summary.hours * 3600:.0f} s) from {summary.sources} sources added to {out}"]
    lines += [f"{summary.already_done} sources were done before"] if summary.already_done else []
    lines += [f"{summary.duplicates} sources are copies of others"] if summary.duplicates else []
    lines += [f"rejected, {reason}: {count}" for reason, count in summary.rejections.items()]
    _say(summary.model_dump(), lines, as_json)


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
    _say(found, lines, as_json)


@data.command()
def verify(dataset: DatasetArgument, as_json: Json = False) -> None:
    """Read every commit record, checksum and schema again; exit code 1 if anything is wrong."""
    from emo_data.store import Dataset

    opened = Dataset.open(dataset)
    problems = opened.verify()
    sources = len(opened.commits()) if not problems else None
    _say({"dataset": dataset, "problems": problems}, problems or [f"{sources} sources, nothing is wrong"], as_json)
    if problems:
        raise typer.Exit(1)


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
    _say({"centres": centres, "radii": radii}, lines, as_json)


@app.command()
def train(
    stage: Annotated[int, typer.Option(min=1, max=3, help="1: images, 2: video and voice, 3: head speed.")],
    data: Annotated[str, typer.Option(metavar="DATASET")],
    out: Annotated[Path, typer.Option(metavar="RUN", help="A new folder, or one of this very run to go on with.")],
    init: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="RUN/model of the stage before; not for 1.")
    ] = None,
    preset: Annotated[
        Literal["tiny", "sd15"], typer.Option(help="The model's size: a laptop's, or the paper's.")
    ] = "tiny",
    weights: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Public weights to start from: unet, vae (stage 1), motion (2).")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Other than the recipe's.")] = None,
    train_spatial: Annotated[
        bool, typer.Option("--train-spatial", help="In stage 2, go on training what stage 1 trained, too.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Device = "auto",
    plot: Annotated[Path | None, typer.Option(metavar="PNG", help="Draw the loss curve.")] = None,
    as_json: Json = False,
) -> None:
    """Train one stage; the result is RUN/model. An unfinished RUN goes on where it stopped."""
    from emo_core.training.plot import plot_losses
    from emo_core.training.prepare import prepare
    from emo_core.training.recipes import stage_recipe
    from flows.progress import progress

    _check_picture("--plot", plot)
    changes = {"seed": seed, "train_spatial": train_spatial} | ({"steps": steps} if steps else {})
    recipe = stage_recipe(stage, preset).model_copy(update=changes)
    with progress(f"stage {stage}") as report:
        trainer = prepare(recipe, data, out, init, choose_device(device), weights)
        trainer.train(report)
    if plot is not None:
        plot_losses({f"stage {stage}": trainer.run.metrics}, plot)
    result = {"model": str(trainer.run.model), "metrics": str(trainer.run.metrics), "steps": recipe.steps}
    _say(result, [f"model in {trainer.run.model}"], as_json)


@app.command()
def generate(
    model: Annotated[Path, typer.Option(metavar="MODEL", help="RUN/model of stage 2 or 3.")],
    portrait: Annotated[Path, typer.Option(metavar="IMG", help="A picture of one face.")],
    audio: Annotated[Path, typer.Option(metavar="SOUND", help="A voice, spoken or sung.")],
    out: Annotated[Path, typer.Option(metavar="MP4")],
    speed: Annotated[
        str, typer.Option(help="Of the head: degrees per frame, still, calm, lively, singing, or a CSV.")
    ] = "calm",
    region: Annotated[
        str, typer.Option(help="Where the face may go: auto, all, x0,y0,x1,y1 in 0-1, or a mask's file.")
    ] = "auto",
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Denoising steps per clip.")] = 40,
    guidance: Annotated[
        float | None, typer.Option(min=0, help="How strongly portrait and voice are followed: 2; 1 is fastest.")
    ] = None,
    reference_scale: Annotated[
        float | None, typer.Option(min=0, help="How strongly the portrait is followed, in place of --guidance.")
    ] = None,
    audio_scale: Annotated[
        float | None, typer.Option(min=0, help="How strongly the voice is followed, in place of --guidance.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Device = "auto",
    preview: Annotated[Path | None, typer.Option(metavar="PNG", help="Write a contact sheet too.")] = None,
    as_json: Json = False,
) -> None:
    """A portrait and a sound become a video of the sound's length."""
    from emo_core.inference.generate import Request, generate
    from emo_core.inference.sampling import Sampling
    from flows.progress import progress

    _check_picture("--preview", preview)
    if guidance is not None:
        if reference_scale is not None or audio_scale is not None:
            raise UserError("--guidance is both scales in one: give it, or --reference-scale and --audio-scale")
        reference_scale = audio_scale = guidance
    sampling = Sampling(
        steps=steps,
        reference_scale=Sampling.reference_scale if reference_scale is None else reference_scale,
        audio_scale=Sampling.audio_scale if audio_scale is None else audio_scale,
        seed=seed,
    )
    request = Request(portrait, audio, out, speed, region, sampling, preview)
    with progress("generate") as report:
        frames = generate(model, request, choose_device(device), report)
    _say({"video": str(out), "frames": frames}, [f"{frames} frames in {out}"], as_json)


WeightsArgument = Annotated[Path, typer.Argument(metavar="DIR", help="What `emo train` takes as --weights.")]


@weights.command()
def check(folder: WeightsArgument, as_json: Json = False) -> None:
    """What is there, whole or not, and from where the rest would come. Asks no network."""
    from flows.weights import check

    found = check(folder)
    lines = [
        f"{part['name']:10s}{part['state']:11s}{part['what']}: {part['from']}, {part['megabytes']} MB, "
        + ", ".join([part["licence"], *part["files"]])
        for part in found
    ]
    _say({"folder": str(folder), "parts": found}, lines, as_json)
    if any(part["state"] in ("missing", "damaged") for part in found):
        raise typer.Exit(1)


@weights.command()
def fetch(
    folder: WeightsArgument,
    part: Annotated[
        list[str] | None, typer.Option(metavar="unet|vae|motion|wav2vec2", help="Only this part; may be repeated.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Fetch weights from the hub (HF_ENDPOINT), go on with what was interrupted, check every file."""
    from flows.progress import progress
    from flows.weights import check, fetch

    with progress("weights") as report:
        fetch(folder, part or [], report)
    found = check(folder)
    lines = [f"{part['name']:10s}{part['state']:11s}licence {part['licence']}" for part in found]
    _say({"folder": str(folder), "parts": found}, lines, as_json)


@bench.command()
def model(
    size: Annotated[
        int | None, typer.Option(min=128, help="Pixels per side: 512, and 256 where there is only a CPU.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often a step is timed next to its baseline.")] = 5,
    compiled: Annotated[bool, typer.Option("--compile", help="With torch.compile, the baseline too.")] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """The full-size model, with random weights: operations and memory counted, a denoising step timed."""
    import torch

    from emo_core.bench.model import count_model, time_model
    from emo_core.model.config import sd15
    from flows.progress import progress

    chosen = choose_device(device)
    pixels = size or (256 if chosen.type == "cpu" else 512)
    if pixels % 64:
        raise UserError(f"--size {pixels}: must be a multiple of 64, for the UNet halves the latents three times")
    torch.set_num_threads(os.cpu_count() or 1)  # unlike the small model's, these layers are worth it
    counted = count_model(sd15())
    with progress("bench") as report:
        timed = time_model(
            sd15().model_copy(update={"size": pixels}), chosen, rounds=rounds, compiled=compiled, on_progress=report
        )
    found = timed.model_dump() | counted.model_dump()
    lines = [
        f"{key:28s}{value:.4g}" if isinstance(value, float) else f"{key:28s}{value}" for key, value in found.items()
    ]
    _say(found, lines, as_json)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder, or an earlier demo's: what is done is kept.")],
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """The whole road, from nothing to a talking portrait: sample, ingest, three stages, generate."""
    from flows.demo import DemoSettings, demo
    from flows.progress import clock

    report = demo(out, DemoSettings(seed=seed), choose_device(device))
    lines = [f"{name:10s}{clock(seconds)}" for name, seconds in report["seconds"].items()]
    lines += [f"{'in all':10s}{clock(report['seconds_in_all'])}, {report['peak_mib'] / 1024:.1f} GiB of memory at most"]
    _say(report, [*lines, f"watch {report['video']}"], as_json)


def choose_device(name: str) -> "torch.device":
    """auto: the accelerator if there is one. UserError for a device that this machine has not."""
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if name == "auto":
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device {name}: no such kind of device; auto, cpu or cuda") from error
    if device.type != "cpu" and (accelerator is None or device.type != accelerator.type):
        raise UserError(f"--device {name}: this machine has none that torch can use; `emo doctor` lists what it has")
    return device


def _check_picture(option: str, path: Path | None) -> None:
    """Before the work, not after it."""
    if path is not None and path.suffix.lower() != ".png":
        raise UserError(f"{option} {path}: must end in .png")
    if path is not None and not path.parent.is_dir():
        raise UserError(f"{option} {path}: the folder {path.parent} does not exist")


def _layers(text: str) -> Literal["all"] | list[int]:
    if text == "all":
        return "all"
    try:
        return [int(number) for number in text.split(",")]
    except ValueError as error:
        raise UserError(f"--audio-layers {text}: give all, or numbers such as 7,8,9") from error


def _say(result: dict[str, Any], lines: list[str], as_json: bool) -> None:
    print(json.dumps(result, allow_nan=False) if as_json else "\n".join(lines), flush=True)


def run(arguments: list[str]) -> int:
    """Carry out one command line and return its exit code. A fault of ours keeps its traceback."""
    debug = "--debug" in arguments
    try:
        code = app([word for word in arguments if word != "--debug"], prog_name="emo", standalone_mode=False)
    except (UserError, typer.TyperException) as error:
        if debug:
            raise
        message = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        if message:  # a bare `emo` has only shown the help
            print(f"error: {' '.join(message.split())}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        print("error: interrupted", file=sys.stderr)
        return 1
    return code or 0


def main() -> None:
    """The console script."""
    # The small model's layers take microseconds: threads inside an operation wait for each other longer than they
    # work, and where they spin while they wait, another busy process makes them 60 times slower. Training has other
    # work for the other cores (see `accumulate`). Whoever has a larger model sets OMP_NUM_THREADS. It must be said
    # before torch is imported, which only the commands do.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    sys.exit(run(sys.argv[1:]))
