import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Wav2Vec2ForCTC

from emo_data.dataset.window import surroundings
from emo_data.errors import UserError
from emo_data.features.audio import CONTEXT_SECONDS, HOP_SECONDS, AudioEncoder, Heard, tiny_model
from emo_data.features.quality import loudness_per_frame
from emo_data.schema import SAMPLE_RATE
from emo_data.synthetic import synthesise_voice

FPS = 25


@pytest.fixture(scope="module")
def encoder():
    return AudioEncoder.load("tiny")


@pytest.fixture(scope="module")
def voices():
    return [synthesise_voice([seed, 5], 6).astype(np.float32) for seed in range(6)]


def encoded(encoder, sound):
    return encoder.encode(sound, len(sound) * FPS // SAMPLE_RATE, FPS).astype(np.float32)


def test_every_frame_has_its_features(encoder, voices):
    features = encoder.encode(voices[0], 150, FPS)
    assert features.dtype == np.float16 and features.shape == (150, len(encoder.layers), encoder.width)
    assert np.isfinite(features).all() and features.std(axis=0).min() > 0
    parameters = sum(weight.numel() for weight in encoder.model.parameters())
    assert 50_000 < parameters < 120_000
    for frames, fps in ((1, 25), (7, 25), (300, 25), (31, 30)):  # a sound too short for that is silent at its end
        assert np.isfinite(encoder.encode(voices[0][:4000], frames, fps)).all()


def test_a_frame_is_what_is_heard_at_its_time(encoder):
    """A click 2 s into noiseless sound moves the features there, and nowhere else by as much."""
    sound = np.zeros(4 * SAMPLE_RATE, np.float32)
    sound[2 * SAMPLE_RATE : 2 * SAMPLE_RATE + 160] = 0.5
    features = encoder.encode(sound, 100, FPS)[:, 0].astype(np.float32)
    change = np.abs(features - np.median(features, axis=0)).sum(axis=1)
    assert abs(int(change.argmax()) - 50) <= 1


def test_what_is_heard_when_asked_for_is_the_whole(encoder, voices, monkeypatch):
    """In any order; every piece of the sound is heard once where a clip goes on from the clip before."""
    sound = np.tile(voices[0], 3)[: 20 * SAMPLE_RATE]
    frames = 20 * FPS
    whole, heard, listened = encoder.encode(sound, frames, FPS), Heard(encoder, sound, frames, FPS), []
    block = AudioEncoder.block
    monkeypatch.setattr(AudioEncoder, "block", lambda *given: listened.append(given[-1]) or block(*given))
    assert len(heard) == frames
    for start in range(0, frames, 12):
        around = surroundings(heard, start, min(12, frames - start), 2)
        assert np.array_equal(around, surroundings(whole, start, min(12, frames - start), 2))
    assert listened == [0, 1, 2]
    assert np.array_equal(heard[np.array([[450, 3], [250, 3]])], whole[np.array([[450, 3], [250, 3]])])


def test_only_the_near_surroundings_matter(encoder, voices):
    """What is more than the context away from a block cannot change it, so ingestion and inference agree."""
    sound = np.concatenate(voices)
    other = sound.copy()
    other[(HOP_SECONDS + CONTEXT_SECONDS) * SAMPLE_RATE :] *= 0.1
    first = HOP_SECONDS * FPS
    assert np.array_equal(encoded(encoder, sound)[:first], encoded(encoder, other)[:first])


def test_moving_the_grid_changes_little(encoder, voices):
    """Measured: 2 to 4 % of the norm for one real voice, 1 to 3 % here."""
    sound = np.concatenate([voices[0], voices[0], voices[0], voices[0]])
    whole = encoded(encoder, sound)
    for seconds in (1, 3, 6):
        moved = encoded(encoder, sound[seconds * SAMPLE_RATE :])[50:-50]
        same = whole[seconds * FPS :][50:-50]
        assert np.linalg.norm(moved - same) < 0.06 * np.linalg.norm(same)


def test_loudness_of_unheard_voices_can_be_read(encoder, voices):
    """Ridge regression from one frame's features; measured r = 0.93 on real voices that it never heard."""
    inputs = [encoded(encoder, voice).reshape(150, -1) for voice in voices]
    targets = [loudness_per_frame(voice, 150, FPS) for voice in voices]
    known, wanted = np.concatenate(inputs[:4]), np.concatenate(targets[:4])
    mean, spread = known.mean(axis=0), known.std(axis=0) + 1e-3
    known = (known - mean) / spread
    gram = known.T @ known + 0.05 * len(known) * np.eye(known.shape[1])
    weights = np.linalg.solve(gram, known.T @ (wanted - wanted.mean()))
    for heard, loud in zip(inputs[4:], targets[4:], strict=True):
        assert np.corrcoef((heard - mean) / spread @ weights, loud)[0, 1] > 0.92


def test_the_same_seed_gives_the_same_encoder_in_another_process(encoder):
    code = "from emo_data.features.audio import AudioEncoder; print(AudioEncoder.load('tiny').fingerprint)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == encoder.fingerprint
    assert AudioEncoder(tiny_model(1)).fingerprint != encoder.fingerprint


def test_saved_and_loaded_it_is_the_same(encoder, voices, tmp_path):
    part = AudioEncoder(tiny_model(0), [2])
    part.save(tmp_path / "a")
    loaded = AudioEncoder.load(tmp_path / "a")
    assert (loaded.layers, loaded.fingerprint) == ([2], encoder.fingerprint)
    assert np.array_equal(loaded.encode(voices[0], 50, FPS)[:, 0], encoder.encode(voices[0], 50, FPS)[:, 1])
    assert AudioEncoder.load(tmp_path / "a", "all").layers == [1, 2]


@pytest.mark.parametrize("weight_norm", ["new", "old"])
def test_a_model_that_was_trained_to_spell_is_heard_without_its_spelling(encoder, voices, tmp_path, weight_norm):
    """wav2vec2-base-960h as it is published: all names begin with wav2vec2, there is a head for letters, and the names
    of the positional convolution are those of an older torch."""
    speller = Wav2Vec2ForCTC(encoder.model.config)
    speller.wav2vec2.load_state_dict(encoder.model.state_dict())
    speller.save_pretrained(tmp_path)
    if weight_norm == "old":
        file = tmp_path / "model.safetensors"
        older = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
        weights = {}
        for name, value in load_file(file).items():
            for new, old in older.items():
                name = name.replace(new, old)
            weights[name] = value
        assert any(name.endswith("weight_g") for name in weights)
        save_file(weights, file, metadata={"format": "pt"})
    loaded = AudioEncoder.load(tmp_path)
    assert loaded.fingerprint == encoder.fingerprint
    assert np.array_equal(loaded.encode(voices[0], 20, FPS), encoder.encode(voices[0], 20, FPS))


def test_loading_and_encoding_leave_the_random_state_alone(voices):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    AudioEncoder(tiny_model(0)).encode(voices[0], 10, FPS)
    assert torch.rand(1) == expected


def test_what_cannot_be_had_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in (tmp_path, tmp_path / "gone", "nobody/has-this-model"):
        with pytest.raises(UserError, match="tiny") as error:
            AudioEncoder.load(name)
        assert str(name) in str(error.value)
    with pytest.raises(UserError, match="1 to 2"):
        AudioEncoder.load("tiny", [2, 3])
