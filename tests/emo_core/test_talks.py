"""Videos in the making: side by side, in turns, watched, cancelled, compiled."""

from dataclasses import replace
from threading import current_thread

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter

from emo_core.inference.pipeline import EMOPipeline
from emo_core.inference.sampling import Sampling
from emo_core.model.emo import build
from tests.emo_core.conftest import drive, portrait, psnr


def advance(pipeline, talks):
    """The next clip of each, to be seen."""
    latents = pipeline.advance(talks)
    return [pipeline.show(talk, talk.done - 1, clip).numpy() for talk, clip in zip(talks, latents, strict=True)]


def finish(pipeline, talks):
    """The rest of each video, all talks advancing together as long as there is more to say."""
    clips = [[] for _ in talks]
    while going := [number for number, talk in enumerate(talks) if talk.done < talk.clips]:
        for number, pictures in zip(going, advance(pipeline, [talks[number] for number in going]), strict=True):
            clips[number].append(pictures)
    return [np.concatenate(each) for each in clips]


REQUESTS = [(9, Sampling(3, 2, 2, seed=0)), (4, Sampling(3, 1, 1, seed=1)), (7, Sampling(3, 2, 3, seed=2))]
"""Three lengths, with two, one and three branches."""


def wishes(config):
    """Requests that differ in everything: face, region, voice, speed."""
    made = []
    for number, (frames, how) in enumerate(REQUESTS):
        who, what = portrait(config, number), drive(config, frames, number)
        who.mask[:, : 10 * number] = 0
        what.speed[:] = 0.7 * number
        made.append((who, what, how))
    return made


def test_two_interleaved_requests_equal_two_separate_ones(checkpoint, config):
    """Clip by clip in turns: bit for bit what each is alone."""
    pipeline = EMOPipeline.of(checkpoint)
    requests = [(portrait(config, seed), drive(config, 6, seed), Sampling(steps=2, seed=seed)) for seed in (0, 1)]
    alone = [pipeline(*request) for request in requests]
    turns = list(zip(*(pipeline.stream(*request) for request in requests), strict=True))
    for index, video in enumerate(alone):
        assert np.array_equal(np.concatenate([clips[index] for clips in turns]), video)


def test_requests_that_are_denoised_together_are_what_each_is_alone(checkpoint, config):
    """Whatever their lengths and their guidance, and also where one joins in later."""
    pipeline = EMOPipeline.of(checkpoint)
    requests = wishes(config)
    alone = [pipeline(*request) for request in requests]
    together = finish(pipeline, [pipeline.begin(*request) for request in requests])
    early, late = pipeline.begin(*requests[0]), pipeline.begin(*requests[2])
    (first,) = advance(pipeline, [early])
    rest, joined = finish(pipeline, [early, late])
    for found, expected in zip(
        [*together, np.concatenate([first, rest]), joined], [*alone, alone[0], alone[2]], strict=True
    ):
        assert found.shape == expected.shape
        assert psnr(found, expected) >= 50
    assert psnr(alone[0][:4], alone[1]) < 40  # else it would be no wonder


def test_what_is_not_a_number_stays_in_its_own_video(checkpoint, config):
    pipeline = EMOPipeline.of(checkpoint)
    sound, broken = wishes(config)[0], wishes(config)[2]
    broken[0].picture.fill_(np.nan)
    alone = pipeline(*sound)[: config.frames]
    _, found = advance(pipeline, [pipeline.begin(*request) for request in (broken, sound)])
    assert psnr(found, alone) >= 50


@pytest.mark.parametrize("other", [Sampling(3), Sampling(2, scheduler="dpm++"), Sampling(2, guided=(0, 0.5))])
def test_requests_of_different_steps_are_not_denoised_together(checkpoint, config, other):
    pipeline = EMOPipeline.of(checkpoint)
    talks = [pipeline.begin(portrait(config), drive(config, 3), each) for each in (Sampling(2), other)]
    with pytest.raises(ValueError, match="same steps"):
        pipeline.advance(talks)
    assert [talk.done for talk in talks] == [0, 0]


def test_a_talk_that_has_ended_does_not_go_on(checkpoint, config):
    pipeline = EMOPipeline.of(checkpoint)
    ended, fresh = (pipeline.begin(portrait(config), drive(config, 3), Sampling(1)) for _ in range(2))
    pipeline.advance([ended])
    for talks in ([ended, fresh], []):
        with pytest.raises(ValueError, match="not ended"):
            pipeline.advance(talks)
    assert (ended.done, fresh.done) == (1, 0)


def test_pictures_of_stage_1_are_made_side_by_side_too(checkpoint, config):
    """It has no motion frames, so ReferenceNet looks at nothing after the portrait."""
    model = build(config, 1).eval()
    checkpoint = replace(checkpoint, model=model, card=checkpoint.card.model_copy(update={"stage": 1}))
    pipeline = EMOPipeline.of(checkpoint)
    requests = wishes(config)
    alone = [pipeline(*request) for request in requests]
    late = [pipeline.begin(*requests[0])]
    pipeline.advance(late)
    late += [pipeline.begin(*requests[2])]
    assert psnr(finish(pipeline, late)[1], alone[2]) >= 50
    assert not late[0].motion


def test_every_step_is_reported_and_may_change_the_latents(checkpoint, config):
    """diffusers' callback, its steps counted through the whole video."""
    pipeline = EMOPipeline.of(checkpoint)
    request = portrait(config), drive(config, 7), Sampling(steps=2)
    seen = []

    def watch(pipe, step, timestep, given):
        seen.append((pipe, step, int(timestep), given["latents"].dtype, tuple(given["latents"].shape)))
        return given

    assert np.array_equal(pipeline(*request, callback_on_step_end=watch), pipeline(*request))
    total = pipeline.total_steps(7, request[2])
    assert [step for _, step, *_ in seen] == list(range(total)) == list(range(6))
    assert len({timestep for _, _, timestep, *_ in seen}) == 2
    assert {tuple(rest) for pipe, _, _, *rest in seen} == {(torch.float32, (1, 3, *config.latent_shape))}
    assert all(pipe is pipeline for pipe, *_ in seen)
    emptied = pipeline(*request, callback_on_step_end=lambda *given: {"latents": torch.zeros_like(given[3]["latents"])})
    assert (emptied == emptied[0]).all()


def test_a_generation_is_cancelled_by_what_its_callback_raises(checkpoint, config):
    """At once, and the next one is as if nothing had been."""
    pipeline = EMOPipeline.of(checkpoint)
    request = portrait(config), drive(config, 7), Sampling(steps=2)
    expected = pipeline(*request)

    def stop(_pipe, step, _timestep, given):
        if step == 3:
            raise KeyboardInterrupt
        return given

    clips = pipeline.stream(*request, callback_on_step_end=stop)
    assert np.array_equal(next(clips), expected[:3])
    with pytest.raises(KeyboardInterrupt):
        next(clips)
    assert np.array_equal(pipeline(*request), expected)


@pytest.mark.usefixtures("one_lane")
@pytest.mark.parametrize("scales", [(1, 1), (2, 2)])
def test_a_video_of_three_clips_compiles_once(checkpoint, config, scales):
    """No graph break, and no other compilation for the first clip's zero maps, the last clip, another step. One lane,
    as an accelerator has: several of a CPU compile at the same time, each for itself."""
    pipeline = EMOPipeline.of(checkpoint)
    request = portrait(config), drive(config, 8), Sampling(3, *scales)
    expected = pipeline(*request)
    counter = CompileCounter()
    torch.compiler.reset()  # what an earlier test compiled would make this one's shapes dynamic
    pipeline.backbone.compile(backend=counter, fullgraph=True, dynamic=False)
    assert psnr(pipeline(*request), expected) >= 50
    assert counter.frame_count == 1


def test_what_an_unseeing_branch_is_told_is_what_dropping_taught(checkpoint, config):
    """Keys and values of a dropped reference, which training projects from zeros, are the zeros of generation; and
    silence is what training hears where the voice is dropped."""
    pipeline = EMOPipeline.of(checkpoint)
    model, talk = checkpoint.model, pipeline.begin(portrait(config), drive(config, 3), Sampling(1, 2, 3))
    sees, deaf, blind = pipeline.tell(talk, talk.sampling.branches)
    dropped = model.backbone.project_reference(
        {
            name: torch.zeros(1, pair.key.shape[2], pair.key.shape[1] * pair.key.shape[3])
            for name, pair in talk.reference.items()
        }
    )
    shape = 1, config.frames, 2 * config.audio_margin + 1, config.audio_layers, config.audio_width
    silent = model.hear(torch.zeros(shape))
    for name, pair in dropped.items():
        for part in ("key", "value"):
            assert torch.equal(getattr(blind.reference[name], part), getattr(pair, part))
            assert getattr(sees.reference[name], part).any()
            for branch in (deaf, blind):
                heard = getattr(branch.audio[name], part)
                assert torch.allclose(heard, getattr(silent[name], part), atol=1e-6)
            assert not torch.allclose(getattr(sees.audio[name], part), heard, atol=1e-3)


def test_branches_in_lanes_are_those_of_one_batch(checkpoint, config, monkeypatch):
    """On a CPU each run of the Backbone is on a thread of its own where the operations have one each."""
    pipeline, found, threads = EMOPipeline.of(checkpoint), {}, {}
    original = pipeline.backbone.forward

    def seen(*given):
        threads[lanes].add(current_thread().name)
        return original(*given)

    monkeypatch.setattr(pipeline.backbone, "forward", seen)
    for lanes in (1, 3):
        threads[lanes] = set()
        monkeypatch.setattr("emo_core.inference.pipeline.side_by_side", lambda device, lanes=lanes: lanes)
        found[lanes] = finish(pipeline, [pipeline.begin(*wish) for wish in wishes(config)])
    assert threads[1] == {current_thread().name}
    assert len(threads[3]) > 1 and not threads[3] & threads[1]
    for batched, separate in zip(found[1], found[3], strict=True):
        assert psnr(batched, separate) >= 50
