"""The figures of generation: all there, and about what they say they are about."""

import numpy as np
import pytest
from PIL import Image

from emo_core.bench import generation
from emo_core.bench.generation import Subject, bench_generation, speak, ways_to
from emo_core.inference.sampling import Sampling
from emo_data.sound import write_sound
from emo_data.synthetic import synthesise_voice
from tests.emo_core.runs import CPU

FULL = Sampling(4, 1, 2)


def test_all_figures_are_there(model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(generation, "LENGTHS", (1, 10, 60))
    monkeypatch.setattr(
        generation,
        "speak",
        lambda subject, voice, *rest: speak(subject, model_folder / "voice.wav", *rest).model_copy(
            update={"sound_seconds": int(voice.stem)}
        ),
    )
    monkeypatch.setattr(generation, "ProcessPoolExecutor", _Here)
    told = []
    subject = Subject(str(model_folder / "model"), model_folder / "portrait.png", model_folder / "voice.wav")
    found = bench_generation(subject, FULL, CPU, tmp_path / "ways.png", lambda done, total: told.append((done, total)))
    assert [one.sound_seconds for one in found.spoken] == [1, 10, 60] and found.branches == 2
    for one in found.spoken:
        shares = (one.denoising_share, one.reference_share, one.vae_share, one.overhead_share)
        assert sum(shares) == pytest.approx(1) and min(shares) > 0 and 0 < one.encode_share < 1
    full, *others = found.ways
    assert full.times_faster == 1 and full.psnr is None
    assert [way.name for way in others] == list(ways_to(FULL))[1:] and all(way.seconds > 0 for way in others)
    assert told[-1] == (10, 10)
    assert np.asarray(Image.open(tmp_path / "ways.png")).shape == (7 * 32, 8 * 32, 3)


class _Here:
    """Not in another process: what is shown here needs none."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, work, *given):
        class Answer:
            result = staticmethod(lambda: work(*given))

        return Answer


def test_memory_does_not_grow_with_the_sound(model_folder, tmp_path):
    """In processes of their own, as the figures are taken."""
    subject = Subject(str(model_folder / "model"), model_folder / "portrait.png", None)
    peaks = []
    for length in (2, 20):
        voice = tmp_path / f"{length}.wav"
        write_sound(voice, synthesise_voice([0, 9], length))
        with generation.ProcessPoolExecutor(1, mp_context=generation.get_context("spawn")) as alone:
            peaks.append(alone.submit(speak, subject, voice, Sampling(1, 1, 1), "cpu", 1).result().peak_mib)
    assert peaks[1] < 1.05 * peaks[0]
