"""The noise that the frames of a video begin with."""

import numpy as np
import pytest

from emo_core.diffusion import mix_noise
from emo_core.inference.pipeline import EMOPipeline
from emo_core.inference.sampling import Sampling
from tests.emo_core.conftest import drive, portrait


def noise_at(places, share):
    """(F, 40000): noise of frames at these places of one path."""
    rng = np.random.default_rng(0)
    keys = rng.standard_normal((5, 1, 200, 200), dtype=np.float32)
    own = rng.standard_normal((len(places), 1, 200, 200), dtype=np.float32)
    return mix_noise(keys, np.array(places), own, share).flatten(1).numpy()


def test_noise_has_unit_variance_everywhere_on_its_path():
    assert noise_at([0, 0.2, 0.5, 0.9, 1.0, 2.6, 3.99], 0.97).std(1) == pytest.approx(np.ones(7), abs=0.02)


def test_neighbours_have_their_share_of_noise_in_common_and_far_frames_none():
    noise = noise_at([0, 0.001, 1, 2], 0.8)
    correlation = np.corrcoef(noise)
    assert correlation[0, 1] == pytest.approx(0.8, abs=0.02)
    assert correlation[[0, 0, 1], [2, 3, 3]] == pytest.approx(0, abs=0.02)


def test_without_common_noise_every_frame_has_its_own():
    assert np.corrcoef(noise_at([0, 0.1, 0.2], 0.0))[0, 1:] == pytest.approx(0, abs=0.02)


def test_batches_of_paths_are_mixed_one_by_one():
    rng = np.random.default_rng(0)
    keys, own = (rng.standard_normal((2, 3, 1, 4, 4), dtype=np.float32) for _ in range(2))
    places = np.array([[0.1, 0.2, 0.3], [0.9, 1.0, 1.1]])
    both = mix_noise(keys, places, own, 0.5)
    for sample in range(2):
        assert both[sample].equal(mix_noise(keys[sample], places[sample], own[sample], 0.5))


def test_the_path_goes_on_from_clip_to_clip(checkpoint, config, monkeypatch):
    """At a join the noise differs no more than inside a clip."""
    card = checkpoint.card
    config = config.model_copy(update={"common_noise": 0.999, "noise_drift": 10, "size": 128})
    checkpoint.card = card.model_copy(update={"config": config})
    begun = []
    original = checkpoint.model.backbone.forward

    def seen(latents, timestep, conditions):
        begun.append(latents[0])
        return original(latents, timestep, conditions)

    monkeypatch.setattr(checkpoint.model.backbone, "forward", seen)
    EMOPipeline.of(checkpoint)(portrait(config), drive(config, 8 * config.frames), Sampling(1, 1, 1))
    noise = np.concatenate(begun)
    steps = np.abs(np.diff(noise, axis=0)).mean((1, 2, 3))
    assert steps.max() < 1.3 * steps.min()
    assert abs(np.corrcoef(noise[0].ravel(), noise[20].ravel())[0, 1]) < 0.2
