"""Which clips are learnt from, and how they are read: thresholds, caches, processes."""

import math

import numpy as np
import pytest
import torch

from emo_core.training.latents import LatentCache, codec_fingerprint
from emo_data.dataset.index import ClipIndex, Threshold
from emo_data.dataset.loader import load
from emo_data.dataset.order import Order
from emo_data.dataset.sample import Wants
from emo_data.errors import UserError
from emo_data.schema import Split
from emo_data.store import Dataset
from tests.emo_core.runs import CPU, clip_ids, finished, losses, make_dataset, prepare, recipe, row

pytestmark = pytest.mark.usefixtures("smallest")
ONE = range(1), range(1)
"""The first lane of the first step."""


@pytest.fixture
def judged(tmp_path, encoder, config):
    """Clips that differ in what they can be judged by; the last one was not judged for its lips."""
    folder = str(tmp_path / "judged")
    dataset = Dataset.create(folder, {"fps": 25.0, "size": config.size, "audio_model": "tiny"})
    for number, (blur, state, sync) in enumerate(
        [(0.1, "voice", 5.0), (0.5, "voice", 2.0), (0.9, "absent", 5.0), (0.2, "voice", None)]
    ):
        told = {"blur": blur, "sound_state": state, "sync_confidence": sync}
        dataset.write_source(str(number), f"{number}.mp4", str(number), [row(number, encoder, config.size) | told], [])
    return folder


@pytest.mark.parametrize(
    ("listening", "keep", "left"),
    [
        (False, (), "0123"),
        (True, (), "013"),
        (False, ("blur<0.5",), "03"),
        (False, ("blur <= 0.5", "blur>1e-1"), "13"),
        (True, ("sync_confidence>=3",), "0"),
        (False, ("frames>23",), "0123"),
    ],
)
def test_thresholds_are_applied_when_rows_are_read(judged, listening, keep, left):
    index = ClipIndex(judged, Split.TRAIN, listening=listening, keep=keep)
    assert clip_ids(index) == [f"clip{number}" for number in left]


def test_what_leaves_no_clip_is_named(judged):
    with pytest.raises(UserError, match=r"with a voice leaves 3 of 4; blur<0.3 leaves 2 of 3; blur>0.3 leaves 0 of 2"):
        ClipIndex(judged, Split.TRAIN, listening=True, keep=("blur<0.3", "blur>0.3"))
    with pytest.raises(UserError, match="none of its 4 clips is in the test split"):
        ClipIndex(judged, Split.TEST, listening=False)


@pytest.mark.parametrize("text", ["blur", "blur==1", "video<1", "blur<much", "nothing<1", "blur<1; rm"])
def test_a_threshold_that_is_none_is_refused(text):
    with pytest.raises(UserError, match=r"--keep.*blur<0\.5"):
        Threshold.parse(text)


def test_thresholds_are_part_of_the_run(judged, tmp_path):
    other = prepare(recipe(1, keep=("blur<0.8",)), judged, tmp_path / "run", None, CPU)
    assert len(other.index) == 3
    with pytest.raises(UserError, match="keep"):
        prepare(recipe(1), judged, tmp_path / "run", None, CPU)


def readings(index, processes, latents=None):
    wants = Wants(frames=4, before=2, margin=1, listening=True, speed=True, seed=(0, 3), latents=latents)
    order = Order.over(index.lengths, 4, 2, lanes=2, windows=3, seed=(0, 3))
    return list(load(index, wants, order, range(2), range(7), processes))


def test_other_processes_read_the_same_samples(data):
    index = ClipIndex(data, Split.TRAIN, listening=True)
    here, there = readings(index, 0), readings(index, 2)
    assert len(here) == len(there) > 4
    for one, other in zip(here, there, strict=True):
        assert one.keys() == other.keys()
        assert all(
            torch.equal(one[key], other[key]) if torch.is_tensor(one[key]) else one[key] == other[key] for key in one
        )


def test_a_sample_is_what_its_window_says(data):
    """Frames, voice and speed of one moment; the reference is another frame of the clip."""
    index = ClipIndex(data, Split.TRAIN, listening=True)
    for samples in readings(index, 0):
        for place, (clip, start, reference) in enumerate(samples["origins"]):
            pictures = index.pictures(clip)
            assert np.array_equal(samples["run"][place], pictures[start - 2 : start + 4])
            assert np.array_equal(samples["reference"][place], pictures[reference]) and reference != start
            heard = index.read(clip, ["audio_features"])["audio_features"].reshape(24, -1, index.extractor.width)
            assert np.array_equal(samples["audio"][place][:, 1], heard[start : start + 4])
            assert np.allclose(samples["speed"][place], 0.3 * (clip + 1))


def test_the_region_is_that_of_the_whole_clip_or_of_the_window(tmp_path, encoder, config):
    here = np.linspace(0, 0.5, 24, dtype=np.float32)[:, None] + np.float32([0, 0.2, 0.3, 0.5])
    data = make_dataset(str(tmp_path / "moving"), encoder, config.size, box=here)
    before = finished(1, data, tmp_path / "one")
    for region in ("clip", "window"):
        form = recipe(2, grow_mask=0.0, region=region)
        batch = next(prepare(form, data, tmp_path / region, before, CPU).batches(*ONE))
        ((_, start, _),) = batch.origins
        known = here if region == "clip" else here[start : start + config.frames]
        left, top, right, bottom = np.concatenate([known[0, :2], known[-1, 2:]]) * config.size
        expected = np.zeros((1, 1, config.size, config.size))
        expected[..., math.floor(top) : math.ceil(bottom), math.floor(left) : math.ceil(right)] = 1
        assert np.array_equal(batch.mask, expected)


def test_strong_noise_comes_more_often_where_the_recipe_says_so(data, tmp_path):
    even, often = (
        next(prepare(recipe(1, noise_power=power), data, tmp_path / str(power), None, CPU).batches(range(2), range(1)))
        for power in (1.0, 0.5)
    )
    assert torch.allclose(often.strata, even.strata.sqrt()) and (often.strata > even.strata).all()
    assert torch.equal(often.noise, even.noise)


def test_what_in_a_process_goes_wrong_is_said_as_it_is(data, tmp_path, encoder, config):
    spoilt = str(tmp_path / "spoilt")
    dataset = Dataset.create(spoilt, {"fps": 25.0, "size": config.size, "audio_model": "tiny"})
    bad = row(0, encoder, config.size)
    bad["audio_features"] = np.full_like(bad["audio_features"], np.nan)
    dataset.write_source("0", "0.mp4", "0", [bad], [])
    for processes in (0, 1):
        with pytest.raises(UserError, match=r"^clip clip0: its audio features are not all numbers"):
            readings(ClipIndex(spoilt, Split.TRAIN, listening=True), processes)


def test_cached_latents_are_those_of_the_pictures(data, tmp_path, models):
    """The same losses either way; what another run or stage cached is used, and nothing is encoded twice."""
    cache = str(tmp_path / "latents")
    finished(2, data, tmp_path / "plain", models[1])
    trainer = prepare(recipe(2), data, tmp_path / "cached", models[1], CPU, cache=cache)
    trainer.train()
    assert losses(tmp_path / "plain") == pytest.approx(losses(tmp_path / "cached"), rel=1e-5)
    stored = LatentCache(cache, codec_fingerprint(trainer.checkpoint.codec), trainer.index)
    assert stored.missing() == []
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "latents").rglob("*.npy")}
    assert len(before) == 3
    prepare(recipe(2, seed=1), data, tmp_path / "other", models[1], CPU, cache=cache).train()
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "latents").rglob("*.npy")}
    frames = np.array([0, 1, 2, 7, 23])
    whole = stored(1, np.arange(24))
    assert whole.dtype == np.float16 and np.array_equal(stored(1, frames), whole[frames])


def test_latents_of_another_codec_or_other_pictures_are_not_used(data, tmp_path, encoder, config):
    trainer = prepare(recipe(1), data, tmp_path / "run", None, CPU)
    codec = trainer.checkpoint.codec
    one = codec_fingerprint(codec)
    codec.register_to_config(scaling_factor=2.0)
    assert codec_fingerprint(codec) != one
    cache = LatentCache(str(tmp_path / "latents"), one, trainer.index)
    cache.fill(codec, cache.missing(), False)
    again = str(tmp_path / "again")
    dataset = Dataset.create(again, {"fps": 25.0, "size": config.size, "audio_model": "tiny"})
    other = row(0, encoder, config.size) | {"video": row(2, encoder, config.size)["video"]}  # the same name
    dataset.write_source("0", "0.mp4", "0", [other], [])
    index = ClipIndex(again, Split.TRAIN, listening=False)
    assert LatentCache(str(tmp_path / "latents"), one, index).missing() == [0]
