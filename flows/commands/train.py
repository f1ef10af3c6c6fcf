"""The command that trains the model."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from emo_data.errors import UserError
from flows.commands.options import Device, Json, check_picture, choose_device, say, whole

if TYPE_CHECKING:
    from emo_core.training.plan import Plan


def train(
    stage: Annotated[int, typer.Option(min=1, max=3, help="1: images, 2: video and voice, 3: head speed.")],
    data: Annotated[str, typer.Option(metavar="DATASET")],
    out: Annotated[str, typer.Option(metavar="RUN", help="A new folder, or one of this very run to go on with.")],
    init: Annotated[str | None, typer.Option(metavar="MODEL", help="RUN/model of the stage before; not for 1.")] = None,
    preset: Annotated[
        Literal["tiny", "sd15"], typer.Option(help="The model's size: a laptop's, or the paper's.")
    ] = "tiny",
    weights: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Public weights to start from: unet, vae (stage 1), motion (2).")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Other than the recipe's.")] = None,
    micro_batch: Annotated[
        int | None, typer.Option(min=1, help="Samples at a time: fewer need less memory and change nothing else.")
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN<NUMBER", help="Only clips that pass; also <=, >, >=. May be given again."),
    ] = None,
    train_spatial: Annotated[
        bool, typer.Option("--train-spatial", help="In stage 2, go on training what stage 1 trained, too.")
    ] = False,
    train_audio: Annotated[
        bool,
        typer.Option("--train-audio", help="In stage 3: train the audio layers, too, which the paper advises against."),
    ] = False,
    cache_latents: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Encode every clip once, into a folder that all stages and runs can share."),
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="With torch.compile: minutes first, then faster.")
    ] = False,
    checkpoint_every: Annotated[int | None, typer.Option(min=1, help="Steps; other than the recipe's.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    workers: Annotated[
        str | None,
        typer.Option(
            metavar="0|N|LEAST-MOST", help="Ray workers: one for each GPU where there are several; 0: without Ray."
        ),
    ] = None,
    address: Annotated[
        str, typer.Option(metavar="local|auto|HOST:PORT", help="A Ray of its own, the one of this machine, another.")
    ] = "local",
    accelerator: Annotated[
        str | None, typer.Option(metavar="TYPE", help="Only machines with this GPU, as Ray names it: H100, A100-80G…")
    ] = None,
    readers: Annotated[
        int | None, typer.Option(min=0, help="Processes for each worker that read ahead: 4 with a GPU, 0 without.")
    ] = None,
    device: Device = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, show what would be trained, and write nothing.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(metavar="PNG", help="Draw the loss curve.")] = None,
    as_json: Json = False,
) -> None:
    """Train one stage; the result is RUN/model. An unfinished RUN goes on where it stopped."""
    import torch

    from emo_core.training.loop import DivergedError, Notice, StoppedError
    from emo_core.training.plan import plan
    from emo_core.training.plot import plot_losses
    from emo_core.training.recipes import stage_recipe
    from emo_core.training.run import Crew, carry_out, check_crew
    from flows.asked import asked_to_stop
    from flows.progress import progress

    check_picture("--plot", plot)
    given = {"steps": steps, "micro_batch": micro_batch, "checkpoint_every": checkpoint_every, "keep": keep}
    changes: dict[str, object] = {
        "seed": seed,
        "train_spatial": train_spatial,
        "train_audio": train_audio,
        "compiled": compiled,
    }
    changes |= {name: value for name, value in given.items() if value}
    recipe = stage_recipe(stage, preset)
    recipe = type(recipe).model_validate(recipe.model_dump() | changes)
    elsewhere = address != "local"  # what this machine has says nothing about a cluster's
    if elsewhere:
        data, out, init = whole(data), whole(out), init and whole(init)
        weights, cache_latents = weights and weights.absolute(), cache_latents and whole(cache_latents)
    chosen = torch.device("cpu") if elsewhere else choose_device(device)
    gpus = 0 if chosen.type == "cpu" else torch.accelerator.device_count()
    crew = Crew(
        workers=_range(workers) if workers is not None else _one_for_each(gpus, recipe.batch),
        address=address,
        accelerator=accelerator,
        gpu=device != "cpu" if elsewhere else gpus > 0,
        readers=readers,
    )
    check_crew(crew, recipe.batch)
    planned = plan(recipe, data, out, init, weights, cache_latents)
    if dry_run:
        _show(planned, as_json)
        return
    try:
        with progress(f"stage {stage}") as report, asked_to_stop() as asked:
            carry_out(planned, chosen, crew, report, lambda: Notice.STOP if asked() else Notice.NONE)
    except (StoppedError, DivergedError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    finally:
        if plot is not None and planned.run.folder.exists("metrics.jsonl"):
            plot_losses({f"stage {stage}": out}, plot)
    result = {"model": planned.run.model, "metrics": f"{out}/metrics.jsonl", "steps": recipe.steps}
    say(result, [f"model in {planned.run.model}"], as_json)


def _one_for_each(gpus: int, batch: int) -> tuple[int, int]:
    """As many as there are GPUs, or as can share the batch evenly; one needs no Ray."""
    from emo_core.training.crew import divisors

    most = max((count for count in divisors(batch) if count <= gpus), default=0)
    return (most, most) if most > 1 else (0, 0)


def _range(text: str) -> tuple[int, int]:
    least, _, most = text.partition("-")
    if not (least.isdigit() and (most or least).isdigit()) or int(most or least) < int(least):
        raise UserError(f"--workers {text}: a number, or the least and the most like 2-8")
    if int(least) == 0 < int(most or least):
        raise UserError(f"--workers {text}: the least number of Ray workers is 1")
    return int(least), int(most or least)


def _show(planned: "Plan", as_json: bool) -> None:
    from emo_core.training.cost import count_memory, count_step
    from emo_core.training.table import parts

    recipe, index, held_out = planned.recipe, planned.index, planned.held_out
    rows = parts(planned)
    config = planned.run.card.config
    memory, operations = count_memory(config, recipe), count_step(config, recipe) * recipe.batch / 1e12
    result = {
        "parts": [row.model_dump() for row in rows],
        "clips": len(index),
        "held_out_clips": 0 if held_out is None else len(held_out),
        "memory": memory.model_dump(),
        "step_tflop": operations,
        "recipe": recipe.model_dump(mode="json"),
    }
    lines = [f"{'part':28s}{'parameters':>14s}  {'':8s}  weights"]
    for row in rows:
        state = "frozen" if not row.trained else "trained" if row.trained == row.parameters else "in part"
        lines.append(f"{row.part:28s}{row.parameters:14,d}  {state:8s}  {row.source}")
    lines.append(
        f"{'in all':28s}{sum(row.parameters for row in rows):14,d}  {sum(row.trained for row in rows):,d} trained"
    )
    lines.append(f"{len(index)} clips to learn from, {result['held_out_clips']} of held-out people")
    lines.append(
        f"{recipe.steps} steps of {recipe.batch} samples and {operations:.3g} TFLOP, {recipe.micro_batch} at a time"
    )
    lines.append(
        f"{memory.peak_gib:.2f} GiB on a device: weights {memory.weights_gib:.2f}, state {memory.state_gib:.2f}, "
        f"step {memory.step_gib:.2f}"
    )
    say(result, lines, as_json)
