"""The smallest EMO that has every part, for tests that look at structure and not at quality."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from emo_core.checkpoint import Card, Checkpoint, save
from emo_core.diffusion import noise_schedule
from emo_core.inference.pipeline import Drive, Portrait
from emo_core.inference.preprocess import read_picture
from emo_core.model.codec import LinearCodec
from emo_core.model.config import ModelConfig
from emo_core.model.emo import EMO, build
from emo_core.training.batch import Batch
from emo_core.training.recipes import stage_recipe
from emo_core.training.step import StageLoss
from emo_data.dataset.sample import Origin
from emo_data.features.audio import AudioEncoder
from emo_data.sound import read_sound, write_sound
from emo_data.synthetic import write_sample
from tests.emo_core.runs import finished, make_dataset, smallest_config


@pytest.fixture
def config() -> ModelConfig:
    """32 x 32 pixels, two resolutions, a handful of channels."""
    return smallest_config()


BUCKETS = ([0.0, 1.0, 2.0], [1.0, 1.0, 1.0])


def batch_loss(model: EMO, scheduler: DDIMScheduler, batch: Batch, min_snr: float | None) -> torch.Tensor:
    """The loss of a batch in float32."""
    recipe = stage_recipe(3, "tiny").model_copy(update={"min_snr": min_snr})
    return StageLoss(model, scheduler, recipe)(batch).mean()


def awake(model: EMO) -> EMO:
    """The model with every zero-initialised layer disturbed, as if it had been trained."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


@pytest.fixture
def one_lane(monkeypatch):
    """All runs of the Backbone in one batch, as on an accelerator."""
    monkeypatch.setattr("emo_core.inference.pipeline.side_by_side", lambda device: 1)


@pytest.fixture
def model(config: ModelConfig) -> EMO:
    """A stage 3 model in which every branch has an effect."""
    torch.manual_seed(0)
    return awake(build(config, 3, BUCKETS)).eval().channels_last()


@pytest.fixture
def scheduler():
    """The tiny model's schedule."""
    return noise_schedule("sample")


@pytest.fixture
def batch(config: ModelConfig) -> Batch:
    """Two random samples of stage 3."""
    g = torch.Generator().manual_seed(2)
    c, side = config, config.size // config.codec_downscale

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=g)

    return Batch(
        origins=(Origin(0, 1, 2), Origin(1, 3, 4)),
        latents=normal(2, c.frames, c.latent_channels, side, side),
        reference=normal(2, c.latent_channels, side, side),
        motion=normal(2, c.motion_frames, c.latent_channels, side, side),
        mask=(normal(2, 1, c.size, c.size) > 0).float(),
        audio=normal(2, c.frames, 2 * c.audio_margin + 1, c.audio_layers, c.audio_width),
        speed=normal(2, c.frames, 2 * c.audio_margin + 1).abs(),
        keep_reference=torch.ones(2),
        keep_motion=torch.ones(2),
        noise=normal(2, c.frames, c.latent_channels, side, side),
        weight=torch.ones(2, c.frames, 1, side, side),
        strata=torch.tensor([0.2, 0.7]),
    )


@pytest.fixture
def checkpoint(model, config, scheduler) -> Checkpoint:
    """The smallest model with a codec and the built-in audio encoder."""
    torch.manual_seed(0)
    encoder = AudioEncoder.load("tiny")
    codec = LinearCodec.fit(torch.rand(4, 3, 32, 32) * 2 - 1, config.codec_downscale, config.latent_channels)
    card = Card(
        stage=3, config=config, audio_fingerprint=encoder.fingerprint, speed_buckets=BUCKETS, lineage=["one", "two"]
    )
    return Checkpoint(card, model, codec, scheduler, encoder)


def portrait(config, seed: int = 0) -> Portrait:
    generator = torch.Generator().manual_seed(seed)
    picture = torch.rand(3, config.size, config.size, generator=generator) * 2 - 1
    return Portrait(picture, torch.ones(1, config.size, config.size))


def drive(config, frames: int, seed: int = 0) -> Drive:
    rng = np.random.default_rng(seed)
    shape = (frames, config.audio_layers, config.audio_width)
    return Drive(rng.standard_normal(shape, dtype=np.float32), np.full(frames, 0.5, np.float32))


def psnr(one, other):
    """Decibels between two videos."""
    error = np.square(one.astype(float) - other).mean()
    return np.inf if error == 0 else 10 * np.log10(255**2 / error)


@pytest.fixture(scope="session")
def encoder() -> AudioEncoder:
    """The built-in random one."""
    return AudioEncoder.load("tiny")


@pytest.fixture
def data(tmp_path: Path, encoder: AudioEncoder, config: ModelConfig) -> str:
    """Three clips in a dataset on disk."""
    return make_dataset(str(tmp_path / "data"), encoder, config.size)


@pytest.fixture
def smallest(monkeypatch: pytest.MonkeyPatch) -> None:
    """`plan` asks for the smallest model."""

    monkeypatch.setattr("emo_core.model.config.tiny", smallest_config)


@pytest.fixture
def models(data: str, tmp_path: Path, smallest: None) -> dict[int, Path | None]:
    """The models of stages 1 and 2; what stage 1 starts from is None."""
    first = finished(1, data, tmp_path / "first", steps=2)
    return {0: None, 1: first, 2: finished(2, data, tmp_path / "second", first, steps=2)}


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory, encoder):
    """model (of stage 3, with the built-in encoder), portrait.png and voice.wav (2 s: 50 frames, 17 clips of 3)."""
    folder = tmp_path_factory.mktemp("model")
    config = smallest_config(len(encoder.layers), encoder.width)
    torch.manual_seed(0)
    model = awake(build(config, 3, BUCKETS)).eval()
    codec = LinearCodec.fit(torch.rand(4, 3, 32, 32) * 2 - 1, config.codec_downscale, config.latent_channels)
    card = Card(stage=3, config=config, audio_fingerprint=encoder.fingerprint, speed_buckets=BUCKETS, lineage=["", ""])
    save(Checkpoint(card, model, codec, noise_schedule("sample"), encoder), folder / "model")
    write_sample(folder / "sample", clips=1, seconds=1, seed=0)
    held_out = folder / "sample" / "held_out"
    (held_out / "portrait.png").rename(folder / "portrait.png")
    write_sound(folder / "voice.wav", read_sound(held_out / "voice.wav")[: 2 * 16_000])
    return folder


@pytest.fixture(scope="module")
def two_faces(model_folder):
    one = read_picture(model_folder / "portrait.png")
    path = model_folder / "two.png"
    Image.fromarray(np.concatenate([one, one[:, ::-1]], axis=1)).save(path)
    return path


class EvalSample(NamedTuple):
    """A synthetic sample and its truth. openings: name in the folder -> (F,)."""

    folder: Path
    clips: list[Path]
    openings: dict[str, np.ndarray]
    rotations: dict[str, np.ndarray]


@pytest.fixture(scope="session")
def eval_sample(tmp_path_factory: pytest.TempPathFactory) -> EvalSample:
    """Two people, four seconds each."""
    folder = tmp_path_factory.mktemp("evaluated") / "sample"
    write_sample(folder, clips=2, seconds=4, seed=2, looks=2, size=192)
    told = json.loads((folder / "truth.json").read_text())
    names = sorted(name for name in told if name.startswith("clips/"))
    return EvalSample(
        folder,
        [folder / name for name in names],
        {name: np.array(told[name]["mouth_opening"]) for name in names},
        {name: np.array(told[name]["rotation"]) for name in names},
    )
