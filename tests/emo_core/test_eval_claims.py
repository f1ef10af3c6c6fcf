"""The measures of the paper's claims, on signals and pictures whose truth is known."""

import numpy as np
import pytest

from emo_core.evaluation.claims import (
    Film,
    difference_interval,
    film_of,
    film_of_portrait,
    joins_over_inside,
    mouth_over_rest,
    nearest,
    voice_and_mouth,
)
from emo_data.film import encode_video
from emo_data.synthetic.cast import write_cast
from emo_data.synthetic.head import Head
from emo_data.synthetic.look import looks_of
from emo_data.synthetic.sample import render_clip

VIDEOS, FRAMES = 6, 275


@pytest.fixture
def loudness():
    smooth = np.random.default_rng(0).normal(size=(VIDEOS, FRAMES + 8))
    return np.stack([np.convolve(row, np.ones(9) / 9, "valid") for row in smooth])


def test_a_mouth_that_follows_its_own_voice(loudness):
    noise = np.random.default_rng(1).normal(size=loudness.shape) * loudness.std()
    offset = np.arange(VIDEOS)[:, None]  # one mouth wider than the other
    openings = loudness + noise + offset
    openings[0, 30:60] = np.nan
    found = voice_and_mouth(openings, loudness)
    assert found.own == pytest.approx(0.5**0.5, abs=0.05)
    assert found.own_less_other == pytest.approx(found.own, abs=0.1)
    for value, (low, high) in (
        (found.own, found.own_interval),
        (found.own_less_other, found.own_less_other_interval),
    ):
        assert low < value < high and high - low < 0.25
    assert voice_and_mouth(2 * openings, loudness).own == pytest.approx(found.own)
    louder = voice_and_mouth(loudness + 0.3 * noise, loudness)
    low, high = difference_interval(louder, found)
    assert 0 < low < louder.own - found.own < high


def test_a_mouth_that_follows_no_voice_or_anothers(loudness):
    still = voice_and_mouth(np.random.default_rng(2).normal(size=loudness.shape), loudness)
    assert abs(still.own) < 0.12 and still.own_interval[0] < 0 < still.own_interval[1]
    wrong = voice_and_mouth(np.roll(loudness, 1, axis=0), loudness)
    assert wrong.own < 0.3 and wrong.own_less_other < 0.1
    assert np.isnan(voice_and_mouth(np.full_like(loudness, np.nan), loudness).own)


@pytest.fixture(scope="module")
def head():
    return Head(looks_of(1)[0], 128)


@pytest.fixture(scope="module")
def films(head, tmp_path_factory):
    """The same still head with two voices, and a third time with the first voice and another wall."""
    folder = tmp_path_factory.mktemp("films")
    made = []
    for name, voice in (("one", 1), ("other", 2)):
        clip = render_clip(head, [voice, 9], 2, speed=0)
        clip = clip._replace(frames=np.stack([head.render(np.zeros(3), gap).picture for gap in clip.mouth_opening]))
        encode_video(folder / f"{name}.mp4", clip.frames, 25, clip.sound)
        made.append(film_of(folder / f"{name}.mp4"))
    return made


def test_a_film_is_seen_and_heard(films):
    one = films[0]
    assert one.pictures.shape == (50, 128, 128, 3) and one.faces == 1 and len(one.sound) == 2 * 16_000
    assert np.corrcoef(one.opening, one.loudness)[0, 1] > 0.7
    assert np.nanmean(one.speed) < 0.3


def test_another_voice_changes_the_mouth_alone(films):
    one, other = films
    assert mouth_over_rest(one, other) > 3
    everywhere = Film((one.pictures * 0.8).astype(np.uint8), one.landmarks, one.sound)
    assert mouth_over_rest(one, everywhere) < 1.5
    blind = Film(one.pictures, np.full_like(one.landmarks, np.nan), one.sound)
    assert np.isnan(mouth_over_rest(blind, blind))


def test_joins():
    rng = np.random.default_rng(0)
    steps = rng.integers(1, 3, size=(60, 8, 8, 3)).astype(np.int64)
    steps[12::12] *= 3
    film = Film(np.cumsum(steps, axis=0).astype(np.uint8), np.full((60, 478, 3), np.nan), np.zeros(1))
    assert joins_over_inside(film, 12) == pytest.approx(3, abs=0.2)
    assert joins_over_inside(film, 7) == pytest.approx(1, abs=0.2)


def test_frames_look_like_the_one_they_show(films, tmp_path):
    portraits, _ = write_cast(tmp_path, looks_of(6), 0, 1, size=256)
    people = [film_of_portrait(path, 128) for path in portraits]
    who, distances = nearest(films[0], people)
    assert distances.shape == (50, 6) and (who == 0).all()
    assert [int(nearest(one, people)[0][0]) for one in people] == list(range(6))
    blind = Film(films[0].pictures, np.full_like(films[0].landmarks, np.nan), films[0].sound)
    assert len(nearest(blind, people)[0]) == 0
