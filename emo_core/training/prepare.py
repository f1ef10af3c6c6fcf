"""All that comes before the first step: data, the stage's model, and the folder of the run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from emo_core.checkpoint import Card, Checkpoint, fingerprint, load, load_codec, read_card
from emo_core.diffusion import noise_schedule
from emo_core.model.codec import Codec, LinearCodec, encode_pictures
from emo_core.model.config import ModelConfig, preset_config
from emo_core.model.emo import build, grow
from emo_core.model.pretrained import PICKLED, SAFE, WeightsError, load_vae, take_motion, take_unet
from emo_core.model.speed import fit_buckets
from emo_core.training.latents import LatentCache
from emo_core.training.loop import Trainer
from emo_core.training.recipes import Recipe
from emo_core.training.run_folder import RunCard, RunFolder
from emo_data.dataset.loader import ClipReader
from emo_data.errors import UserError
from emo_data.features.audio import AudioEncoder
from emo_data.schema import FPS, Split

CODEC_PICTURES = 400
"""Frames that the linear codec is fitted to."""


def prepare(
    recipe: Recipe, data: str, out: Path, init: Path | None, device: torch.device, weights: Path | None = None
) -> Trainer:
    """A trainer, ready to start or to go on.

    init: the finished model of the stage before, RUN/model; None in stage 1. weights: folder of public weights, see
    `_PUBLIC`; None starts from random ones and fits a linear codec to the data. Raises UserError where data, init,
    weights and stage do not fit together; then nothing is written.
    """
    if (init is None) != (recipe.stage == 1):
        raise UserError(
            f"--stage {recipe.stage}: "
            + (
                "starts from nothing, leave --init out"
                if init
                else f"give the model of stage {recipe.stage - 1} as --init"
            )
        )
    if recipe.train_spatial and recipe.stage != 2:
        does = "does so anyway" if recipe.stage == 1 else "never does"
        raise UserError(f"--train-spatial: is for stage 2; stage {recipe.stage} {does}")
    public = _public(recipe, weights)
    reader = ClipReader(data, Split.TRAIN, listening=recipe.stage > 1)
    config = _config(reader, recipe) if init is None else read_card(init).config
    _check_data(reader, recipe, config)
    checkpoint = _first_stage(reader, recipe, public) if init is None else _next_stage(init, reader, recipe, public)
    run = RunFolder(
        out,
        RunCard(
            recipe=recipe,
            config=checkpoint.card.config,
            data=data,
            data_fingerprint=reader.fingerprint,
            init=None if init is None else fingerprint(init),
            weights={part: fingerprint(path) for part, path in public.items()},
        ),
    )
    run.claim()
    if step := run.newest():
        checkpoint.codec = load_codec(run.model_at(step) / "vae")  # not a new fit, which could differ in its last bits
    cache = LatentCache(out / "latents", checkpoint.codec.to(device), reader)
    return Trainer(recipe, checkpoint, reader, cache, run, device)


def speed_buckets(reader: ClipReader, buckets: int) -> tuple[list[float], list[float]]:
    """Centres and radii fitted to the head speeds of the reader's clips (EMO 3.2.5)."""
    return fit_buckets(np.concatenate([clip.speed for clip in reader.clips()]), buckets)


_PUBLIC = {1: ("unet", "vae"), 2: ("motion",), 3: ()}
"""Parts of public weights that a stage starts from: names of folders, or of files, in --weights."""


def _public(recipe: Recipe, weights: Path | None) -> dict[str, Path]:
    """Where the parts are that --weights holds for this stage. The full-size model needs them all."""
    if weights is not None and not weights.is_dir():
        raise UserError(f"--weights {weights}: there is no such folder")
    found = {}
    for part in _PUBLIC[recipe.stage]:
        there = [] if weights is None else [weights / f"{part}{ending}" for ending in ("", *SAFE, *PICKLED)]
        path = next((path for path in there if path.exists()), None)
        if path is not None:
            found[part] = path
        elif recipe.preset == "sd15":
            raise UserError(f"--preset sd15: starts from public weights; give --weights a folder that holds {part}")
    if weights is not None and not found:
        names = " or ".join(_PUBLIC[recipe.stage]) or "no public weights"
        raise UserError(f"--weights {weights}: stage {recipe.stage} starts from {names}, and none is there")
    return found


@contextmanager
def _from_weights() -> Iterator[None]:
    """What is wrong with public weights is said of the option that named them."""
    try:
        yield
    except WeightsError as error:
        raise UserError(f"--weights {error}") from error


def _check_data(reader: ClipReader, recipe: Recipe, config: ModelConfig) -> None:
    """Before anything is fitted or loaded: whether the model can learn from these clips at all."""
    if reader.fps != FPS:
        raise UserError(f"dataset {reader.url}: has {reader.fps:g} frames per second; ingest again with --fps {FPS}")
    if reader.size != config.size:
        raise UserError(
            f"dataset {reader.url}: its pictures have {reader.size} pixels per side, the model takes {config.size}; "
            f"ingest again with --size {config.size}"
        )
    needed = 1 if recipe.stage == 1 else config.frames + config.motion_frames
    if not any(row["frames"] >= needed for row in reader.rows):
        raise UserError(f"dataset {reader.url}: no clip has the {needed} frames that stage {recipe.stage} needs")


def _config(reader: ClipReader, recipe: Recipe) -> ModelConfig:
    return preset_config(recipe.preset, len(reader.extractor.layers), reader.extractor.width)


def _first_stage(reader: ClipReader, recipe: Recipe, public: dict[str, Path]) -> Checkpoint:
    config = _config(reader, recipe)
    codec = _given_codec(public["vae"], config) if "vae" in public else _fit_codec(reader, recipe, config)
    config = config.model_copy(update={"latent_channels": codec.config.latent_channels})
    torch.manual_seed(recipe.seed)
    model = build(config, stage=1)
    if "unet" in public:
        with _from_weights():
            take_unet(model, public["unet"])
    card = Card(stage=1, config=config, audio_fingerprint=None, speed_buckets=None, lineage=[])
    return Checkpoint(card, model, codec, noise_schedule(config.prediction), audio_encoder=None)


def _given_codec(path: Path, config: ModelConfig) -> Codec:
    with _from_weights():
        codec = load_codec(path) if path.is_dir() else load_vae(path)
    with torch.no_grad():
        side = encode_pictures(codec, torch.zeros(1, 3, config.size, config.size)).shape[-1]
    wanted = config.size // config.codec_downscale
    if side != wanted:
        raise UserError(f"--weights {path}: makes {side} latent pixels of {config.size}, the model needs {wanted}")
    return codec


def _fit_codec(reader: ClipReader, recipe: Recipe, config: ModelConfig) -> Codec:
    rng = np.random.default_rng([recipe.seed, 0])
    rows = reader.rows
    each = max(1, CODEC_PICTURES // len(rows))
    chosen = [rows[i] for i in sorted(rng.permutation(len(rows))[:CODEC_PICTURES])]
    pictures = np.concatenate(
        [reader.pictures(row["clip_id"])[np.sort(rng.permutation(row["frames"])[:each])] for row in chosen]
    )
    pixels = torch.from_numpy(pictures).movedim(-1, 1).float() / 127.5 - 1
    return LinearCodec.fit(pixels, config.codec_downscale, config.latent_channels)


def _next_stage(init: Path, reader: ClipReader, recipe: Recipe, public: dict[str, Path]) -> Checkpoint:
    before = load(init, stage=recipe.stage - 1)
    config = before.card.config
    if config.channels != _config(reader, recipe).channels:
        raise UserError(f"--preset {recipe.preset}: the model in {init} is of another size; give the preset of stage 1")
    extractor = reader.extractor
    if (len(extractor.layers), extractor.width) != (config.audio_layers, config.audio_width):
        raise UserError(
            f"dataset {reader.url}: its audio features are {len(extractor.layers)} x {extractor.width}, the model in "
            f"{init} takes {config.audio_layers} x {config.audio_width}; use the dataset that stage 1 was trained on"
        )
    encoder = before.audio_encoder or AudioEncoder.load(reader.dataset.config["audio_model"], list(extractor.layers))
    if (encoder.fingerprint, tuple(encoder.layers)) != (extractor.fingerprint, extractor.layers):
        raise UserError(
            f"dataset {reader.url}: its audio features are layers {list(extractor.layers)} of extractor "
            f"{extractor.fingerprint}, this model listens to layers {encoder.layers} of {encoder.fingerprint}; "
            "ingest again with the model's audio_encoder folder as --audio-model"
        )
    buckets = speed_buckets(reader, config.speed_buckets) if recipe.stage == 3 else None
    torch.manual_seed(recipe.seed)
    card = Card(
        stage=recipe.stage,
        config=config,
        audio_fingerprint=extractor.fingerprint,
        speed_buckets=buckets,
        lineage=[*before.card.lineage, fingerprint(init)],
    )
    model = grow(before.model, config, recipe.stage, buckets)
    if "motion" in public:
        with _from_weights():
            take_motion(model, public["motion"])
    return Checkpoint(
        card=card,
        model=model,
        codec=before.codec,
        scheduler=before.scheduler,
        audio_encoder=encoder,
    )
