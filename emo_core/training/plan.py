"""A run is checked before anything is built or written: data, the model before, public weights, the folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from emo_core.checkpoint import VERSION, at_hand, fingerprint, load_codec, read_card
from emo_core.model.codec import Codec, encode_pictures
from emo_core.model.config import ModelConfig, preset_config
from emo_core.model.pretrained import PICKLED, SAFE, WeightsError, load_vae
from emo_core.training.recipes import Recipe
from emo_core.training.run_folder import RunCard, RunFolder
from emo_data.dataset import sample
from emo_data.dataset.index import ClipIndex, NoClipsError
from emo_data.errors import UserError
from emo_data.schema import FPS, Split


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
    if recipe.train_audio and recipe.stage != 3:
        does = "does so anyway" if recipe.stage == 2 else "has no audio layers"
        raise UserError(f"--train-audio: is for stage 3; stage {recipe.stage} {does}")
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
        channels = given_codec(public["vae"], config).config.latent_channels
        config = config.model_copy(update={"latent_channels": channels})
    run = RunFolder(
        str(out),
        RunCard(
            model_version=VERSION,
            sample_version=sample.VERSION,
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
def from_weights() -> Iterator[None]:
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
    needed = sum(recipe.window(config))
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
    return index if index.lengths.max() >= sum(recipe.window(config)) else None


def _config(index: ClipIndex, recipe: Recipe) -> ModelConfig:
    return preset_config(recipe.preset, len(index.extractor.layers), index.extractor.width)


def given_codec(path: Path, config: ModelConfig) -> Codec:
    """The codec among public weights. UserError where it does not fit the model."""
    with from_weights():
        codec = load_codec(path) if path.is_dir() else load_vae(path)
    with torch.no_grad():
        side = encode_pictures(codec, torch.zeros(1, 3, config.size, config.size)).shape[-1]
    wanted = config.size // config.codec_downscale
    if side != wanted:
        raise UserError(f"--weights {path}: makes {side} latent pixels of {config.size}, the model needs {wanted}")
    return codec
