"""What is made before the first step: the stage's model, its codec, and the run's folder."""

import socket
import tempfile
from pathlib import Path

import numpy as np
import torch

from emo_core.checkpoint import Card, Checkpoint, at_hand, fingerprint, load, load_codec
from emo_core.diffusion import noise_schedule
from emo_core.model.codec import Codec, LinearCodec
from emo_core.model.config import ModelConfig
from emo_core.model.emo import build, grow
from emo_core.model.pretrained import take_motion, take_unet
from emo_core.model.speed import fit_buckets
from emo_core.training.loop import Trainer
from emo_core.training.plan import Plan, from_weights, given_codec
from emo_core.training.ranks import Ranks
from emo_core.training.run_folder import RunFolder
from emo_data.dataset.index import ClipIndex
from emo_data.errors import UserError
from emo_data.features.audio import AudioEncoder

CODEC_PICTURES = 400
"""Frames that the linear codec is fitted to."""
BUCKET_CLIPS = 2000
"""Clips whose speeds the buckets are fitted to: hundreds of thousands of frames."""


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


def _fits_codec(plan: Plan) -> bool:
    return plan.init is None and "vae" not in plan.public


def _first_stage(plan: Plan, fit: bool) -> Checkpoint:
    """fit: whether to fit a codec where there is none yet, which one process does for all."""
    config, public = plan.run.card.config, plan.public
    if "vae" in public:
        codec: Codec = given_codec(public["vae"], config)
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
        with from_weights():
            take_unet(model, public["unet"])
    card = Card(stage=1, config=config, audio_fingerprint=None, speed_buckets=None, lineage=[])
    return Checkpoint(card, model, codec, noise_schedule(config.prediction), audio_encoder=None)


def _fit_codec(index: ClipIndex, seed: int, config: ModelConfig) -> Codec:
    rng = np.random.default_rng([seed, 0])
    each = max(1, CODEC_PICTURES // len(index))
    chosen = np.sort(rng.permutation(len(index))[:CODEC_PICTURES])
    pictures = np.concatenate(
        [index.pictures(clip, np.sort(rng.permutation(index.lengths[clip])[:each])) for clip in chosen]
    )
    pixels = torch.from_numpy(pictures).movedim(-1, 1).float() / 127.5 - 1
    return LinearCodec.fit(pixels, config.codec_downscale, config.latent_channels)


_CODEC = "vae/config.json"
"""Written last: it makes the folder a codec."""


def _kept_codec(run: RunFolder) -> Codec | None:
    if not run.folder.exists(_CODEC):
        return None
    with at_hand(f"{run.url}/vae") as folder:
        return load_codec(folder)


def _keep_codec(run: RunFolder, codec: Codec) -> None:
    if run.folder.exists(_CODEC):
        return
    with tempfile.TemporaryDirectory() as scratch, run.writing("the codec"):
        codec.save_pretrained(scratch)
        for path in sorted(Path(scratch).iterdir(), key=lambda path: path.suffix == ".json"):
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
        with from_weights():
            take_motion(model, plan.public["motion"])
    return Checkpoint(
        card=card,
        model=model,
        codec=before.codec,
        scheduler=before.scheduler,
        audio_encoder=encoder,
    )
