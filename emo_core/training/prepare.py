"""All that comes before the first step: data, the stage's model, and the folder of the run."""

import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from emo_core.checkpoint import Card, Checkpoint, at_hand, fingerprint, load, load_codec, read_card
from emo_core.diffusion import noise_schedule
from emo_core.model.codec import Codec, LinearCodec, encode_pictures
from emo_core.model.config import ModelConfig, preset_config
from emo_core.model.emo import build, grow
from emo_core.model.pretrained import PICKLED, SAFE, WeightsError, load_vae, take_motion, take_unet
from emo_core.model.speed import fit_buckets
from emo_core.training.loop import Trainer
from emo_core.training.ranks import Ranks
from emo_core.training.recipes import Recipe
from emo_core.training.run_folder import RunCard, RunFolder
from emo_data.dataset.index import ClipIndex, NoClipsError
from emo_data.errors import UserError
from emo_data.features.audio import AudioEncoder
from emo_data.schema import FPS, Split

CODEC_PICTURES = 400
"""Frames that the linear codec is fitted to."""
BUCKET_CLIPS = 2000
"""Clips whose speeds the buckets are fitted to: hundreds of thousands of frames."""


@dataclass(frozen=True)
class Plan:
    """A run that can begin: everything about it has been checked that can be without its model. Any process can carry
    it out."""

    run: RunFolder
    index: ClipIndex
    held_out: ClipIndex | None
    """Clips of people who are not trained on; None where there are none."""
    init: str | None
    public: dict[str, Path]
    """Public weights that the stage starts from, by part."""
    cache: str | None
    """Where latents are kept; None encodes pictures as they come."""

    @property
    def recipe(self) -> Recipe:
        """The run's numbers."""
        return self.run.card.recipe


def plan(
    recipe: Recipe,
    data: str,
    out: str | Path,
    init: str | Path | None = None,
    weights: Path | None = None,
    cache: str | None = None,
) -> Plan:
    """Check a run. Nothing is written.

    init: the finished model of the stage before, RUN/model; None in stage 1. weights: folder of public weights, see
    `_PUBLIC`; None starts from random ones and fits a linear codec to the data. cache: see `LatentCache`. Raises
    UserError where data, init, weights, folder and stage do not fit together.
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
    index = ClipIndex(data, Split.TRAIN, listening=recipe.stage > 1, keep=recipe.keep)
    before = None
    if init is not None:
        with at_hand(init) as folder:
            card = read_card(folder)
            if card.stage != recipe.stage - 1:
                raise UserError(f"{init}: a model of stage {card.stage}, but one of stage {recipe.stage - 1} is needed")
            config, before = card.config, fingerprint(folder)
        _check_model(str(init), index, recipe, config)
    else:
        config = _config(index, recipe)
    _check_data(index, recipe, config)
    if "vae" in public:
        channels = _given_codec(public["vae"], config).config.latent_channels
        config = config.model_copy(update={"latent_channels": channels})
    run = RunFolder(
        str(out),
        RunCard(
            recipe=recipe,
            config=config,
            data=data,
            data_fingerprint=index.fingerprint,
            init=before,
            weights={part: fingerprint(path) for part, path in public.items()},
            cached_latents=cache is not None,
        ),
    )
    run.check()
    held_out = _held_out(data, recipe, config) if recipe.validation else None
    return Plan(run, index, held_out, None if init is None else str(init), public, cache)


def prepare(plan: Plan, device: torch.device, ranks: Ranks | None = None) -> Trainer:
    """A trainer, ready to start or to go on. Called by every process; the first claims the folder.

    Raises UserError where the model, the data and the weights do not fit together; nothing is written then.
    """
    ranks = ranks or Ranks()
    checkpoint = _first_stage(plan, ranks.leads) if plan.init is None else _next_stage(plan)
    if ranks.leads:
        plan.run.claim()
        if _fits_codec(plan):
            _keep_codec(plan.run, checkpoint.codec)
    ranks.of_first(None)  # from here on the folder is what this run needs
    if not plan.run.folder.exists("run.json"):
        raise UserError(
            f"--out {plan.run.url}: {socket.gethostname()} does not see it; name a disk that all machines share, or s3://"
        )
    if _fits_codec(plan) and (kept := _kept_codec(plan.run)) is not None:
        checkpoint.codec = kept
    return Trainer(plan.recipe, checkpoint, plan.index, plan.held_out, plan.cache, plan.run, device, ranks)


def speed_buckets(index: ClipIndex, buckets: int) -> tuple[list[float], list[float]]:
    """Centres and radii fitted to the head speeds of an index's clips (EMO 3.2.5)."""
    return fit_buckets(index.speeds(BUCKET_CLIPS), buckets)


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


def _check_data(index: ClipIndex, recipe: Recipe, config: ModelConfig) -> None:
    """Before anything is fitted or loaded: whether the model can learn from these clips at all."""
    if index.fps != FPS:
        raise UserError(f"dataset {index.url}: has {index.fps:g} frames per second; ingest again with --fps {FPS}")
    if index.size != config.size:
        raise UserError(
            f"dataset {index.url}: its pictures have {index.size} pixels per side, the model takes {config.size}; "
            f"ingest again with --size {config.size}"
        )
    needed = 1 if recipe.stage == 1 else config.frames + config.motion_frames
    if index.lengths.max() < needed:
        raise UserError(f"dataset {index.url}: no clip has the {needed} frames that stage {recipe.stage} needs")


def _check_model(init: str, index: ClipIndex, recipe: Recipe, config: ModelConfig) -> None:
    """Whether the model of the stage before is of the preset's size and hears what these clips hold."""
    if config.channels != _config(index, recipe).channels:
        raise UserError(f"--preset {recipe.preset}: the model in {init} is of another size; give the preset of stage 1")
    extractor = index.extractor
    if (len(extractor.layers), extractor.width) != (config.audio_layers, config.audio_width):
        raise UserError(
            f"dataset {index.url}: its audio features are {len(extractor.layers)} x {extractor.width}, the model in "
            f"{init} takes {config.audio_layers} x {config.audio_width}; use the dataset that stage 1 was trained on"
        )


def _held_out(data: str, recipe: Recipe, config: ModelConfig) -> ClipIndex | None:
    try:
        index = ClipIndex(data, Split.TEST, listening=recipe.stage > 1, keep=recipe.keep)
    except NoClipsError:  # nobody is held out, which is no fault
        return None
    needed = 1 if recipe.stage == 1 else config.frames + config.motion_frames
    return index if index.lengths.max() >= needed else None


def _config(index: ClipIndex, recipe: Recipe) -> ModelConfig:
    return preset_config(recipe.preset, len(index.extractor.layers), index.extractor.width)


def _fits_codec(plan: Plan) -> bool:
    return plan.init is None and "vae" not in plan.public


def _first_stage(plan: Plan, fit: bool) -> Checkpoint:
    """fit: whether to fit a codec where there is none yet, which one process does for all."""
    config, public = plan.run.card.config, plan.public
    if "vae" in public:
        codec: Codec = _given_codec(public["vae"], config)
    else:
        # What was kept, not a new fit, which could differ in its last bits; and until the first process has kept one,
        # the others hold an empty one.
        codec = _kept_codec(plan.run) or (
            _fit_codec(plan.index, plan.recipe.seed, config)
            if fit
            else LinearCodec(config.codec_downscale, config.latent_channels)
        )
    torch.manual_seed(plan.recipe.seed)
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


def _fit_codec(index: ClipIndex, seed: int, config: ModelConfig) -> Codec:
    rng = np.random.default_rng([seed, 0])
    each = max(1, CODEC_PICTURES // len(index))
    chosen = np.sort(rng.permutation(len(index))[:CODEC_PICTURES])
    pictures = np.concatenate(
        [index.pictures(clip, np.sort(rng.permutation(index.lengths[clip])[:each])) for clip in chosen]
    )
    pixels = torch.from_numpy(pictures).movedim(-1, 1).float() / 127.5 - 1
    return LinearCodec.fit(pixels, config.codec_downscale, config.latent_channels)


def _kept_codec(run: RunFolder) -> Codec | None:
    if not run.folder.exists("vae/config.json"):
        return None
    with at_hand(f"{run.url}/vae") as folder:
        return load_codec(folder)


def _keep_codec(run: RunFolder, codec: Codec) -> None:
    with tempfile.TemporaryDirectory() as scratch, run.writing("the codec"):
        codec.save_pretrained(scratch)
        for path in sorted(Path(scratch).iterdir(), key=lambda path: path.suffix == ".json"):  # it makes it a codec
            run.folder.put(f"vae/{path.name}", path)


def _next_stage(plan: Plan) -> Checkpoint:
    recipe, index, config = plan.recipe, plan.index, plan.run.card.config
    assert plan.init is not None
    with at_hand(plan.init) as folder:
        before, came_from = load(folder, stage=recipe.stage - 1), fingerprint(folder)
    if came_from != plan.run.card.init:
        raise UserError(f"{plan.init}: is not the model that it was when the run was checked; call again")
    extractor = index.extractor
    encoder = before.audio_encoder or AudioEncoder.load(index.dataset.config["audio_model"], list(extractor.layers))
    if (encoder.fingerprint, tuple(encoder.layers)) != (extractor.fingerprint, extractor.layers):
        raise UserError(
            f"dataset {index.url}: its audio features are layers {list(extractor.layers)} of extractor "
            f"{extractor.fingerprint}, this model listens to layers {encoder.layers} of {encoder.fingerprint}; "
            "ingest again with the model's audio_encoder folder as --audio-model"
        )
    buckets = speed_buckets(index, config.speed_buckets) if recipe.stage == 3 else None
    torch.manual_seed(recipe.seed)
    card = Card(
        stage=recipe.stage,
        config=config,
        audio_fingerprint=extractor.fingerprint,
        speed_buckets=buckets,
        lineage=[*before.card.lineage, came_from],
    )
    model = grow(before.model, config, recipe.stage, buckets)
    if "motion" in plan.public:
        with _from_weights():
            take_motion(model, plan.public["motion"])
    return Checkpoint(
        card=card,
        model=model,
        codec=before.codec,
        scheduler=before.scheduler,
        audio_encoder=encoder,
    )
