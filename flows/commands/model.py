"""Commands that let the model speak, and measure it."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from emo_data.cores import cores
from emo_data.errors import UserError
from flows.commands.options import Device, Json, check_picture, choose_device, say

SchedulerName = Literal["ddim", "dpm++", "unipc"]
"""As in `emo_core.inference.sampling`, which is too heavy for `--help`; a test compares them."""
bench = typer.Typer(help="Speed and memory, against the same work done bare in the same run.", no_args_is_help=True)


def generate(
    model: Annotated[str, typer.Option(metavar="MODEL", help="RUN/model of stage 2 or 3.")],
    portrait: Annotated[Path, typer.Option(metavar="IMG", help="A picture of one face.")],
    audio: Annotated[Path, typer.Option(metavar="SOUND", help="A voice, spoken or sung.")],
    out: Annotated[Path, typer.Option(metavar="MP4")],
    speed: Annotated[
        str, typer.Option(help="Of the head: degrees per frame, still, calm, lively, singing, or a CSV.")
    ] = "calm",
    region: Annotated[
        str, typer.Option(help="Where the face may go: auto, all, x0,y0,x1,y1 in 0-1, or a mask's file.")
    ] = "auto",
    face: Annotated[
        int | None, typer.Option(min=1, help="Which face speaks, from left to right, where the picture shows several.")
    ] = None,
    crop: Annotated[
        str | None, typer.Option(metavar="x0,y0,x1,y1", help="In 0-1: only this part of the picture is looked at.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Denoising steps per clip.")] = 40,
    scheduler: Annotated[
        SchedulerName,
        typer.Option(help="How: dpm++ and unipc need 15 and 8 for nearly what ddim needs 40 for."),
    ] = "ddim",
    guidance: Annotated[
        float | None, typer.Option(min=0, help="How strongly portrait and voice are followed: 2; 1 is fastest.")
    ] = None,
    reference_scale: Annotated[
        float | None, typer.Option(min=0, help="How strongly the portrait is followed, in place of --guidance.")
    ] = None,
    audio_scale: Annotated[
        float | None, typer.Option(min=0, help="How strongly the voice is followed, in place of --guidance.")
    ] = None,
    guided: Annotated[
        str, typer.Option(metavar="FROM,TO", help="In which part of the steps guidance is computed, in 0-1.")
    ] = "0,1",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    paste: Annotated[
        bool, typer.Option("--paste-back", help="Show the whole picture, with the moving face in it.")
    ] = False,
    mark: Annotated[bool, typer.Option("--mark", help="Say in every frame that a machine made it.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep what is done in MP4.unfinished, and go on with what is there.")
    ] = False,
    compiled: Annotated[bool, typer.Option("--compile", help="With torch.compile: for long videos on a GPU.")] = False,
    device: Device = "auto",
    preview: Annotated[Path | None, typer.Option(metavar="PNG", help="Write a contact sheet too.")] = None,
    as_json: Json = False,
) -> None:
    """A portrait and a sound become a video of the sound's length, and a JSON file that says how it was made."""
    from emo_core.inference.generate import Request, check_out, generate, load_pipeline
    from emo_core.inference.preprocess import Choice
    from emo_core.inference.sampling import Sampling, scales
    from flows.progress import progress

    check_picture("--preview", preview)
    if guidance is not None and (reference_scale, audio_scale) != (None, None):
        raise UserError("--guidance is both scales in one: give it, or --reference-scale and --audio-scale")
    reference, voice = scales(guidance, reference_scale, audio_scale)
    sampling = Sampling(
        steps=steps,
        reference_scale=reference,
        audio_scale=voice,
        seed=seed,
        scheduler=scheduler,
        guided=_numbers("--guided", guided, 2),
    )
    request = Request(
        portrait,
        audio,
        out,
        speed,
        region,
        Choice(face, None if crop is None else _numbers("--crop", crop, 4)),
        sampling,
        paste=paste,
        mark=mark,
        preview=preview,
        resume=resume,
    )
    check_out(out)
    with progress("generate") as report:
        loaded = load_pipeline(model, choose_device(device), compiled=compiled)
        frames = generate(loaded, request, report, lambda note: print(f"note: {note}", file=sys.stderr))
    say({"video": str(out), "frames": frames}, [f"{frames} frames in {out}"], as_json)


def _numbers(option: str, text: str, count: int) -> tuple[Any, ...]:
    try:
        numbers = tuple(float(number) for number in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != count:
        raise UserError(f"{option} {text}: give {count} numbers with commas between them")
    return numbers


@bench.command()
def ingest(
    sources: Annotated[
        list[str] | None, typer.Argument(metavar="[SOURCE…]", help="Videos with one face; else some made in code.")
    ] = None,
    size: Annotated[int, typer.Option(min=32, help="Pixels per side of the stored picture.")] = 512,
    rounds: Annotated[int, typer.Option(min=1, help="Each figure is the least of so many.")] = 3,
    workers: Annotated[int | None, typer.Option(min=2, help="How many are set against one: all cores.")] = None,
    audio_model: Annotated[
        str | None, typer.Option(metavar="DIR|ID|tiny", help="Else a wav2vec2-base with random weights.")
    ] = None,
    as_json: Json = False,
) -> None:
    """The whole line of ingestion against its bare kernels, and how both scale."""
    import tempfile

    from emo_data.bench import bench_ingest
    from emo_data.synthetic import write_sample
    from flows.progress import progress

    with tempfile.TemporaryDirectory() as folder, progress("bench") as report:
        if not sources:
            write_sample(Path(folder), clips=3, seconds=6, seed=0, size=512)
            sources = [f"{folder}/clips"]
        found = bench_ingest(sources, size, rounds, workers or max(cores(), 2), audio_model, report).model_dump()
    lines = [f"{name:36s}{1000 * value:8.2f} ms per frame" for name, value in found["seconds_per_frame"].items()]
    lines += [
        f"{name:36s}{value:8.2f}" if isinstance(value, float) else f"{name:36s}{value}"
        for name, value in found.items()
        if name != "seconds_per_frame"
    ]
    say(found, lines, as_json)


@bench.command()
def train(
    data: Annotated[
        str | None, typer.Option(metavar="DATASET", help="Of the small model's size; else one is made.")
    ] = None,
    steps: Annotated[int, typer.Option(min=20, help="That are timed, of each stage and each way to read.")] = 80,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """The small model's three stages against a bare loop, their loader alone; the full-size model's memory, counted,
    and measured on a GPU."""
    import tempfile

    from emo_core.bench.training import bench_training
    from emo_core.model.config import tiny
    from emo_data.ingest.config import IngestConfig
    from emo_data.ingest.run import ingest
    from emo_data.synthetic import write_sample
    from flows.progress import progress

    with tempfile.TemporaryDirectory() as folder, progress("bench") as report:
        if data is None:
            write_sample(Path(folder), clips=4, seconds=5, seed=0)
            data = f"{folder}/data"
            ingest([f"{folder}/clips"], data, IngestConfig(size=tiny().size, audio_model="tiny", test_share=0.0))
        found = bench_training(data, steps, choose_device(device), report)
    lines = [f"{'small model':28s}{'loop/bare':>10s}{'data wait':>10s}{'samples/s':>10s}{'loader alone/step':>18s}"]
    lines += [
        f"stage {one.stage}, reads {one.reads:14s}{one.loop_over_bare:10.3f}{one.data_wait_share:10.1%}"
        f"{one.samples_per_s:10.1f}{one.loader_over_step:18.1f}"
        for one in found.stages
    ]
    lines += [
        f"{name}, full size: {memory.peak_gib:.1f} GiB with {memory.micro_batch} samples at a time, "
        f"{found.sample_tflop[name]:.1f} TFLOP per sample"
        for name, memory in found.memory.items()
    ]
    lines += [
        f"{name}, full size, on this device: {one.peak_gib:.1f} GiB, {one.samples_per_s:.2f} samples/s, "
        f"{one.model_flop_utilisation:.0%} model FLOP utilisation"
        for name, one in found.measured.items()
    ]
    say(found.model_dump(), lines, as_json)


@bench.command(name="generate")
def bench_generate(
    model: Annotated[str, typer.Option(metavar="MODEL", help="RUN/model of stage 2 or 3.")],
    portrait: Annotated[Path | None, typer.Option(metavar="IMG", help="Else one that is made in code.")] = None,
    audio: Annotated[
        Path | None,
        typer.Option(metavar="SOUND", help="To compare samplers; else ten seconds made in code."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Of the full sampler.")] = 40,
    reference_scale: Annotated[float, typer.Option(min=0)] = 2.0,
    audio_scale: Annotated[float, typer.Option(min=0)] = 2.0,
    preview: Annotated[Path | None, typer.Option(metavar="PNG", help="Frames of every sampler, row by row.")] = None,
    compiled: Annotated[bool, typer.Option("--compile", help="Measure what torch.compile gains, too.")] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Time and memory for 2, 10 and 60 s of sound, where the time goes, and what faster samplers gain and lose."""
    import tempfile

    from emo_core.bench.generation import Subject, bench_generation
    from emo_core.inference.sampling import Sampling
    from emo_data.synthetic import write_trial
    from flows.progress import progress

    check_picture("--preview", preview)
    sampling = Sampling(steps, reference_scale, audio_scale)
    with tempfile.TemporaryDirectory() as folder, progress("bench") as report:
        if portrait is None:
            write_trial(Path(folder))
            portrait = Path(folder) / "portrait.png"
        subject = Subject(model, portrait, audio, compiled)
        found = bench_generation(subject, sampling, choose_device(device), preview, report)
    heads = ("ms/frame", "peak MiB", "Backbone", "Reference", "VAE", "rest", "encode")
    lines = [f"{'':14s}{''.join(f'{head:>10s}' for head in heads)}"]
    lines += [
        f"{one.sound_seconds:3d} s of sound{1000 * one.seconds_per_frame:10.1f}{one.peak_mib:10.0f}"
        f"{one.denoising_share:10.1%}{one.reference_share:10.1%}{one.vae_share:10.1%}{one.overhead_share:10.1%}"
        f"{one.encode_share:10.1%}"
        for one in found.spoken
    ]
    lines += [f"{'':40s}{'seconds':>8s}{'faster':>8s}{'faces':>8s}{'mouth r':>8s}{'PSNR dB':>8s}{'before':>8s}"]
    lines += [
        f"{one.name:40s}{one.seconds:8.1f}{one.times_faster:7.2f}x{one.faces:8.1%}"
        f"{_or_dash(one.mouth_follows_voice, '8.3f')}{_or_dash(one.psnr, '8.1f')}{one.seconds_before:8.1f}"
        for one in found.ways
    ]
    say(found.model_dump(), lines, as_json)


def _or_dash(number: float | None, how: str) -> str:
    return f"{'-':>8s}" if number is None else format(number, how)


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
    torch.set_num_threads(cores())  # unlike the small model's, these layers are worth it
    counted = count_model(sd15())
    with progress("bench") as report:
        timed = time_model(
            sd15().model_copy(update={"size": pixels}), chosen, rounds=rounds, compiled=compiled, on_progress=report
        )
    found = timed.model_dump() | counted.model_dump()
    lines = [
        f"{key:28s}{value:.4g}" if isinstance(value, float) else f"{key:28s}{value}" for key, value in found.items()
    ]
    say(found, lines, as_json)


@bench.command(name="serve")
def bench_serve(
    model: Annotated[str, typer.Option(metavar="MODEL", help="RUN/model of stage 2 or 3.")],
    seconds: Annotated[float, typer.Option(min=0.5, help="Of sound in each video.")] = 2.0,
    videos: Annotated[int, typer.Option(min=1, help="Of each load; of as many clients at least one each.")] = 12,
    replicas: Annotated[int | None, typer.Option(min=1, help="Else one for each core, or one for a GPU.")] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Videos through the service, for 1, 4 and 16 clients and for open loads, against the pipeline called directly."""
    from emo_core.bench.serving import bench_serving
    from flows.progress import progress

    on = choose_device(device)
    makers = cores() if on.type == "cpu" else 1
    with progress("bench") as report:
        found = bench_serving(model, seconds, videos, replicas or makers, on, report)
    lines = [f"{'load':20s}{'videos':>8s}{'refused':>9s}{'frames/s':>10s}{'/ bare':>8s}"]
    lines[0] += f"{'p50 s':>8s}{'p95 s':>8s}{'status p99 ms':>15s}"
    lines += [
        f"{one.name:20s}{one.videos:8d}{one.refused:9d}{one.frames_per_second:10.1f}{one.throughput_over_bare:8.2f}"
        f"{one.latency_p50:8.1f}{one.latency_p95:8.1f}{one.status_p99_ms:15.0f}"
        for one in found.loads
    ]
    lines.append(f"the pipeline called directly: {found.bare_frames_per_second:.1f} frames/s")
    say(found.model_dump(), lines, as_json)
