"""Ablations: what is made, kept and refused; and measures against heads whose speed and place are known."""

import json
from itertools import combinations
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from emo_core.evaluation import ablation
from emo_core.evaluation.ablation import Cast, ablate_region, ablate_speed, region_around
from emo_core.evaluation.casting import cast_of, song_of
from emo_core.evaluation.exhibit import frames_of, write_ablation
from emo_core.evaluation.gallery import make_gallery
from emo_core.evaluation.trial import Trial, make_videos, noise_anew
from emo_core.inference.generate import load_pipeline
from emo_core.inference.pipeline import EMOPipeline
from emo_core.inference.sampling import Sampling
from emo_data.errors import UserError
from emo_data.film import encode_video
from emo_data.synthetic.head import Head
from emo_data.synthetic.look import LOOKS, looks_of
from emo_data.synthetic.sample import render_clip
from flows.commands import evaluate
from tests.emo_core.conftest import drive, portrait

ONE = Sampling(1, 1, 1)


def silent(*_):
    """No progress."""


@pytest.fixture(scope="module")
def loaded(model_folder):
    return load_pipeline(model_folder / "model", torch.device("cpu"))


@pytest.fixture
def played(monkeypatch):
    """Videos of a head whose speed is the one assigned, or 1 where none is; every third shows a wall."""
    head, asked = Head(LOOKS[0], 128), []

    def rendered(_loaded, trials, _sampling, folder, on_progress, _advance=None):
        folder.mkdir(parents=True, exist_ok=True)
        films = []
        for number, trial in enumerate(trials):
            asked.append(trial)
            speed = float(trial.speed) if trial.speed[0].isdigit() else 1.0
            clip = render_clip(head, [trial.seed, 9], 2, speed)
            frames = np.full_like(clip.frames, 128) if trial.seed == 2 else clip.frames
            films.append(folder / f"{trial.name}.mp4")
            encode_video(films[-1], frames, 25)
            on_progress(number + 1, len(trials), trial.name)
        return films

    monkeypatch.setattr(ablation, "make_videos", rendered)
    return asked


def model_of(stage):
    """What an ablation asks of a model, besides videos."""
    card = SimpleNamespace(speed_buckets=([0.0], [1.0]) if stage == 3 else None, config=SimpleNamespace(size=64))
    return SimpleNamespace(
        pipeline=SimpleNamespace(checkpoint=SimpleNamespace(card=card)), fingerprint=f"stage {stage}"
    )


def test_speeds_are_measured_per_condition_and_a_faceless_video_is_named(played, model_folder, tmp_path):
    cast = Cast([model_folder / "portrait.png"], [model_folder / "voice.wav"], 3)
    told = []
    found = ablate_speed(
        model_of(3), model_of(2), cast, ONE, tmp_path / "out", lambda *given: told.append(given), ("0.1", "1.3")
    )
    none, calm, fast = found.rows
    assert [row.condition for row in found.rows] == ["none", "0.1", "1.3"]
    assert all((row.videos, row.counted) == (3, 2) for row in found.rows)
    assert calm.velocity_mean < none.velocity_mean < fast.velocity_mean
    assert fast.velocity_mean == pytest.approx(1.3, abs=0.4) and calm.velocity_mean < 0.4
    assert calm.vmv is not None and calm.region_containment is None
    lost = {"without_speed/002.mp4", "videos/0.1_002.mp4", "videos/1.3_002.mp4"}
    assert {one.video for one in found.videos if one.problem} == lost
    assert all("0 of 50" in one.problem for one in found.videos if one.problem)
    assert [given[:2] for given in told] == [(number, 9) for number in range(1, 10)]
    files = write_ablation(found, tmp_path / "out")
    assert json.loads(files[0].read_text())["rows"][2]["counted"] == 2
    page = files[1].read_text()
    assert "| EMO, speed 1.3 | 1.162 | 0.550 | 0.057 |" in page and f"| {fast.velocity_mean:.3f} |" in page
    assert "videos/1.3_002.mp4" in page
    assert Image.open(files[3]).size == (11 * 160, 3 * 160)


def test_seeds_portraits_and_voices_take_turns_alike_under_every_condition(played, model_folder, tmp_path):
    portraits, voices = [model_folder / "portrait.png", model_folder / "portrait.png"], [model_folder / "voice.wav"]
    found = ablate_region(model_of(3), Cast(portraits, voices, 2), ONE, tmp_path / "out", silent)
    assert [row.condition for row in found.rows] == ["tight", "auto", "wide", "tall", "all"]
    by_condition = [[(one.seed, one.portrait, one.voice) for one in played[k : k + 2]] for k in range(0, 10, 2)]
    assert all(one == by_condition[0] for one in by_condition) and [seed for seed, *_ in by_condition[0]] == [0, 1]
    assert {one.speed for one in played} == {"lively"}
    tight, auto, wide, *_ = found.rows
    assert tight.region_containment < wide.region_containment and auto.region_containment is None
    assert Image.open(write_ablation(found, tmp_path / "out")[3]).size == (11 * 160, 5 * 160)


def test_the_command_offers_what_there_is():
    assert get_args(evaluate.Ablation) == get_args(ablation.Kind)


def test_regions_are_the_face_box_enlarged():
    face = np.array([0.4, 0.3, 0.6, 0.7])
    assert region_around(face, "tight") == "0.4000,0.3000,0.6000,0.7000"
    assert region_around(face, "wide") == "0.3000,0.3000,0.7000,0.7000"
    assert region_around(face, "tall") == "0.4000,0.1800,0.6000,0.8200"
    assert region_around(np.array([0.05, 0.3, 0.6, 0.7]), "wide").startswith("0.0000")
    assert region_around(face, "all") == "all"


def test_models_that_do_not_fit_are_refused(loaded, tmp_path):
    cast = Cast([], [], 0)
    with pytest.raises(UserError, match="no speed layers"):
        ablate_speed(model_of(2), None, cast, ONE, tmp_path, silent)
    with pytest.raises(UserError, match="--without-speed"):
        ablate_speed(model_of(3), model_of(3), cast, ONE, tmp_path, silent)


def test_videos_are_made_once_and_belong_to_their_settings(loaded, model_folder, tmp_path):
    portrait, voice = model_folder / "portrait.png", model_folder / "voice.wav"
    trials = [Trial("a", portrait, voice), Trial("b", portrait, voice, speed="1.3"), Trial("c", portrait, voice, 1)]
    out = tmp_path / "videos"
    films = make_videos(loaded, trials, ONE, out, silent)
    content = [film.read_bytes() for film in films]
    assert len({*content}) == 3
    films[1].with_suffix(".json").unlink()  # as if it had been interrupted
    films[1].write_bytes(b"half")
    times = [film.stat().st_mtime_ns for film in films]
    assert make_videos(loaded, trials, ONE, out, silent) == films
    assert [film.stat().st_mtime_ns == time for film, time in zip(films, times, strict=True)] == [True, False, True]
    assert [film.read_bytes() for film in films] == content
    for other in ([*trials[:2], Trial("c", portrait, voice, 2)], trials[:2]):
        with pytest.raises(UserError, match="other settings"):
            make_videos(loaded, other, ONE, out, silent)
    with pytest.raises(UserError, match="something other"):
        make_videos(loaded, trials, ONE, model_folder, silent)


def test_noise_anew_and_forgetting_change_all_clips_but_the_first(checkpoint, config):
    pipeline = EMOPipeline.of(checkpoint)
    request = portrait(config), drive(config, 9), Sampling(2, 1, 1)

    def clips(advance):
        talk = pipeline.begin(*request)
        made = [advance(talk, lambda *given: given[3]) for _ in range(3)]
        assert talk.sampling == request[2]
        return made

    ways = [
        clips(lambda talk, tell: pipeline.advance([talk], tell)[0]),
        clips(noise_anew(pipeline, remembering=True)),
        clips(noise_anew(pipeline, remembering=False)),
    ]
    for one, other in combinations(ways, 2):
        assert [torch.equal(*pair) for pair in zip(one, other, strict=True)] == [True, False, False]


def test_a_gallery_shows_every_portrait_and_a_song(loaded, model_folder, tmp_path):
    portraits, _ = cast_of(None, [model_folder / "voice.wav"], tmp_path / "cast")
    files = make_gallery(
        loaded, portraits[:2], model_folder / "voice.wav", model_folder / "voice.wav", ONE, tmp_path, silent
    )
    assert [file.name for file in files] == [
        *("portraits.png", "song.png", "000_look0.mp4", "001_look1.mp4", "song.mp4")
    ]
    assert Image.open(files[0]).size == (11 * 160, 2 * 160)
    assert json.loads(files[-1].with_suffix(".json").read_text())["speed"] == "singing"


def test_who_speaks_is_found_in_folders_or_made_in_code(model_folder, tmp_path):
    made, voices = cast_of(None, None, tmp_path / "cast")
    assert [path.name for path in made] == [f"look{number}.png" for number in range(5)]
    assert [path.name for path in voices] == [f"voice{number}.wav" for number in range(5)]
    times = [path.stat().st_mtime_ns for path in made]
    assert cast_of([tmp_path / "cast"], [model_folder / "voice.wav"], tmp_path / "no") == (
        made,
        [model_folder / "voice.wav"],
    )
    assert cast_of(None, None, tmp_path / "cast") == (made, voices)
    assert times == [path.stat().st_mtime_ns for path in made] and not (tmp_path / "no").exists()
    assert song_of(tmp_path / "cast/voice1.wav", tmp_path) == tmp_path / "cast/voice1.wav"
    (tmp_path / "empty").mkdir()
    for wrong in ([tmp_path / "empty"], [tmp_path / "missing.png"]):
        with pytest.raises(UserError, match="--portrait"):
            cast_of(wrong, None, tmp_path / "no")


def test_drawn_identities_are_the_same_every_time_and_differ():
    looks = looks_of(12)
    assert looks == looks_of(12) and looks[:6] == list(LOOKS)
    assert len({(look.width, look.wall, look.skin) for look in looks}) == 12
    assert looks_of(3) == looks[:3]


def test_frames_of_a_video_shorter_than_the_sheet(tmp_path):
    encode_video(tmp_path / "short.mp4", np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), np.uint8), 25)
    assert len(frames_of(tmp_path / "short.mp4", 10)) == 10
