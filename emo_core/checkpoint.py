"""What a model folder contains: the only way from training to inference.

The diffusers convention (model_index.json, one folder per part, safetensors), and emo.json beside it with what only
EMO knows: version, stage, sizes, speed buckets, and the fingerprints of the models it came from. Loading is all or
nothing.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import diffusers
import torch
from diffusers import AutoencoderKL, DDIMScheduler, ModelMixin
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError

from emo_core.model.audio import AudioProjection
from emo_core.model.backbone import Backbone
from emo_core.model.codec import Codec, LinearCodec
from emo_core.model.config import ModelConfig
from emo_core.model.emo import EMO
from emo_core.model.face_locator import FaceLocator
from emo_core.model.pretrained import PICKLED, SAFE
from emo_core.model.reference_net import ReferenceNet
from emo_core.model.speed import SpeedEncoder
from emo_data.errors import UserError
from emo_data.features.audio import AudioEncoder
from emo_data.objects import Folder

VERSION = 3
CARD = "emo.json"
TRAINED_PARTS = {
    "backbone": Backbone,
    "reference_net": ReferenceNet,
    "face_locator": FaceLocator,
    "audio_projection": AudioProjection,
    "speed_encoder": SpeedEncoder,
}
CODECS = {"LinearCodec": LinearCodec, "AutoencoderKL": AutoencoderKL}
FIRST_STAGE = {"audio_projection": 2, "audio_encoder": 2, "speed_encoder": 3}
"""Parts that do not exist before a stage."""


class Card(BaseModel):
    """emo.json."""

    model_config = ConfigDict(extra="forbid")

    version: int = VERSION
    stage: Literal[1, 2, 3]
    config: ModelConfig
    audio_fingerprint: str | None
    """Of the audio encoder whose features the model was trained on; None in stage 1."""
    speed_buckets: tuple[list[float], list[float]] | None
    """Centres and radii in degrees per frame; None before stage 3."""
    lineage: list[str]
    """Fingerprints of the models of the stages before, first stage first."""


@dataclass
class Checkpoint:
    """A whole model in memory."""

    card: Card
    model: EMO
    codec: Codec
    scheduler: DDIMScheduler
    audio_encoder: AudioEncoder | None


def save(checkpoint: Checkpoint, folder: Path, variant: str | None = None) -> None:
    """Write a model folder, all of it or nothing; what was there before is replaced.

    variant: goes into the names of the files of weights, such as fp16. The audio encoder has none.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        fresh = Path(scratch) / "model"
        fresh.mkdir()
        index: dict[str, object] = {"_class_name": "EMOPipeline", "_diffusers_version": diffusers.__version__}
        for name, part in {**checkpoint.model.parts(), "vae": checkpoint.codec}.items():
            part.save_pretrained(fresh / name, variant=variant)
            index[name] = [type(part).__module__, type(part).__name__]
        checkpoint.scheduler.save_pretrained(fresh / "scheduler")
        index["scheduler"] = ["diffusers", type(checkpoint.scheduler).__name__]
        if checkpoint.audio_encoder is not None:
            checkpoint.audio_encoder.save(fresh / "audio_encoder")
            index["audio_encoder"] = ["transformers", "Wav2Vec2Model"]
        (fresh / "model_index.json").write_text(json.dumps(index, indent=2))
        (fresh / CARD).write_text(checkpoint.card.model_dump_json(indent=2))
        if folder.exists():
            folder.rename(Path(scratch) / "replaced")
        fresh.rename(folder)


def load(
    folder: Path, stage: int | None = None, *, variant: str | None = None, torch_dtype: torch.dtype | None = None
) -> Checkpoint:
    """Read a model folder. stage: the one that is needed, where only one will do. variant: see `save`.

    torch_dtype: of all weights but the audio encoder's; None for float32.

    Raises UserError that names the folder and what is wrong with it: not a model, another version or stage, missing or
    unexpected weights.
    """
    card = read_card(folder)
    if stage is not None and card.stage != stage:
        raise UserError(f"{folder}: a model of stage {card.stage}, but one of stage {stage} is needed")
    wanted = [name for name in TRAINED_PARTS if FIRST_STAGE.get(name, 1) <= card.stage]
    parts = {name: _load_part(TRAINED_PARTS[name], folder / name, variant, torch_dtype) for name in wanted}
    encoder = None
    if card.stage >= FIRST_STAGE["audio_encoder"]:
        encoder = AudioEncoder.load(folder / "audio_encoder")
        if encoder.fingerprint != card.audio_fingerprint:
            raise UserError(
                f"{folder / 'audio_encoder'}: fingerprint {encoder.fingerprint}, but the model was trained with "
                f"{card.audio_fingerprint}; copy the whole model folder again"
            )
    return Checkpoint(
        card=card,
        model=EMO(**parts),
        codec=load_codec(folder / "vae", variant, torch_dtype),
        scheduler=_load_scheduler(folder / "scheduler"),
        audio_encoder=encoder,
    )


@contextmanager
def at_hand(model: str | Path, only: str | None = None) -> Iterator[Path]:
    """A model's folder, or one of its parts', on this machine's disk: itself, or a copy of what lies in a store. only:
    the one file that is wanted."""
    if "://" not in str(model):
        yield Path(model)
        return
    store = Folder(str(model))
    with tempfile.TemporaryDirectory() as scratch:
        for name in store.all_names():
            if only not in (None, name):
                continue
            target = Path(scratch) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            store.copy(name, target)
        yield Path(scratch)


def load_codec(folder: Path, variant: str | None = None, torch_dtype: torch.dtype | None = None) -> Codec:
    """A codec's folder in the diffusers convention: the linear one, or Stable Diffusion's VAE."""
    kind = CODECS.get(_read_json(folder / "config.json").get("_class_name", ""))
    if kind is None:
        raise UserError(f"{folder}: its config.json names none of {', '.join(CODECS)}")
    return _load_part(kind, folder, variant, torch_dtype)


def read_card(folder: Path) -> Card:
    """emo.json of a model folder, checked."""
    if not (folder / CARD).is_file():
        raise UserError(f"{folder}: not an EMO model (no {CARD}); give the folder that `emo train` calls RUN/model")
    fields = _read_json(folder / CARD)
    if fields.get("version") != VERSION:
        raise UserError(f"{folder}: model version {fields.get('version')}, this program reads version {VERSION}")
    try:
        return Card.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{folder / CARD}: {where}: {first['msg']}") from error


def fingerprint(place: Path) -> str:
    """sha256 (first 16 hex digits) of all weights and configs of a model folder, or of a file."""
    digest = hashlib.sha256()
    for path in [place] if place.is_file() else sorted(place.rglob("*")):
        if path.suffix in {".json", *SAFE, *PICKLED}:
            digest.update(str(path.relative_to(place)).encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _load_part(
    kind: type[ModelMixin], folder: Path, variant: str | None, torch_dtype: torch.dtype | None
) -> ModelMixin:
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: this part of the model is missing; copy the whole model folder again")
    try:
        part, info = kind.from_pretrained(
            folder,
            output_loading_info=True,
            use_safetensors=True,
            local_files_only=True,
            variant=variant,
            torch_dtype=torch_dtype,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder}: cannot be loaded: {str(error).strip().splitlines()[0]}") from error
    wrong = {kind: keys for kind, keys in info.items() if keys}
    if wrong:
        named = "; ".join(f"{kind.replace('_', ' ')}: {', '.join(map(str, keys))}" for kind, keys in wrong.items())
        raise UserError(f"{folder}: the weights do not fit the model: {named}")
    return part


def _load_scheduler(folder: Path) -> DDIMScheduler:
    _read_json(folder / "scheduler_config.json")
    return DDIMScheduler.from_pretrained(folder, local_files_only=True)


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {error}") from error
