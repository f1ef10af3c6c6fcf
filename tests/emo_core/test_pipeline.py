"""The chain of clips, and what a model folder must hold."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from safetensors.torch import load_file, save_file

from emo_core.checkpoint import load, read_card, save
from emo_core.inference.pipeline import Drive, EMOPipeline, Portrait
from emo_core.inference.sampling import Sampling
from emo_core.model.codec import LinearCodec, decode_latents, encode_pictures
from emo_data.errors import UserError
from tests.emo_core.conftest import drive, portrait


@pytest.mark.parametrize("frames", [1, 3, 7])
def test_as_many_frames_as_asked_for(checkpoint, config, frames):
    """Never cut to whole clips of three."""
    video = EMOPipeline.of(checkpoint)(portrait(config), drive(config, frames), Sampling(steps=2))
    assert video.shape == (frames, config.size, config.size, 3)
    assert video.dtype == np.uint8


def test_same_seed_same_video_and_stream_equals_call(checkpoint, config):
    """Generation is a function of its arguments, before and after other requests."""
    pipeline = EMOPipeline.of(checkpoint)
    request = portrait(config), drive(config, 7), Sampling(steps=2)
    first = pipeline(*request)
    other = pipeline(portrait(config, 1), drive(config, 4, seed=1), Sampling(steps=3, seed=1))
    assert np.array_equal(np.concatenate(list(pipeline.stream(*request))), first)
    assert not np.array_equal(other, first[:4])


def test_the_clip_before_is_remembered(checkpoint, config):
    """Changing only the first clip's voice changes the second clip: through the motion frames, in eval mode."""
    pipeline = EMOPipeline.of(checkpoint)
    voice = drive(config, 2 * config.frames + config.audio_margin)
    changed = voice.audio.copy()
    changed[0] += 5
    videos = [
        pipeline(portrait(config), Drive(audio, voice.speed), Sampling(steps=2)) for audio in (voice.audio, changed)
    ]
    second = slice(config.frames + config.audio_margin, 2 * config.frames)
    assert not np.array_equal(videos[0][second], videos[1][second])


@pytest.mark.parametrize("what", ["audio", "speed"])
def test_every_clip_is_driven_by_its_own_stretch(checkpoint, config, what):
    """A change in the third clip, further from the second than the window reaches, changes the third alone."""
    pipeline = EMOPipeline.of(checkpoint)
    told = drive(config, 3 * config.frames + config.audio_margin)
    other = {"audio": told.audio.copy(), "speed": told.speed.copy()}
    other[what][2 * config.frames + config.audio_margin :] += 1
    one, two = (pipeline(portrait(config), given, Sampling(2)) for given in (told, Drive(**other)))
    same = [np.array_equal(one[i : i + config.frames], two[i : i + config.frames]) for i in range(0, 9, config.frames)]
    assert same == [True, True, False]


@pytest.mark.usefixtures("one_lane")
@pytest.mark.parametrize(("scales", "branches"), [((1, 1), 1), ((2, 2), 2), ((1, 3), 2), ((2, 1), 3), ((0, 0), 1)])
def test_only_the_branches_that_are_asked_for(checkpoint, config, monkeypatch, scales, branches):
    pipeline = EMOPipeline.of(checkpoint)
    batches = []
    original = checkpoint.model.backbone.forward

    def counted(latents, timestep, conditions):
        batches.append(len(latents))
        return original(latents, timestep, conditions)

    monkeypatch.setattr(checkpoint.model.backbone, "forward", counted)
    pipeline(portrait(config), drive(config, 3), Sampling(2, *scales))
    assert batches == [branches, branches]


@pytest.mark.usefixtures("one_lane")
@pytest.mark.parametrize(
    ("guided", "batches"), [((0, 1), [2, 2, 2, 2]), ((0, 0.5), [2, 2, 1, 1]), ((0.25, 0.75), [1, 2, 2, 1])]
)
def test_guidance_in_a_part_of_the_steps(checkpoint, config, monkeypatch, guided, batches):
    """In the others the Backbone runs once, and what it then says is taken as it is."""
    pipeline, seen = EMOPipeline.of(checkpoint), []
    original = checkpoint.model.backbone.forward
    monkeypatch.setattr(
        checkpoint.model.backbone,
        "forward",
        lambda latents, *rest: seen.append(len(latents)) or original(latents, *rest),
    )
    request = portrait(config), drive(config, 3)
    video = pipeline(*request, Sampling(4, 1, 3, guided=guided))
    assert seen == batches
    assert np.array_equal(video, pipeline(*request, Sampling(4, 1, 3))) == (guided == (0, 1))
    never = Sampling(4, 1, 3, guided=(0.4, 0.4))
    assert np.array_equal(pipeline(*request, never), pipeline(*request, Sampling(4, 1, 1)))


@pytest.mark.parametrize("name", ["dpm++", "unipc"])
def test_a_solver_of_higher_order_needs_fewer_steps(checkpoint, config, monkeypatch, name):
    """Nearer than DDIM in as many steps to what DDIM comes to in very many, where the best prediction is known:
    clean latents are normal numbers, as large as the noise."""
    pipeline = EMOPipeline.of(checkpoint)
    alphas = pipeline.scheduler.alphas_cumprod

    def best(latents, timestep, _):
        alpha = alphas[timestep[0]]
        return latents * alpha.sqrt()

    monkeypatch.setattr(checkpoint.model.backbone, "forward", best)
    given = portrait(config), drive(config, 3)

    def ends(steps, scheduler):
        last = {}
        pipeline(*given, Sampling(steps, 1, 1, scheduler=scheduler), lambda _, __, ___, told: last.update(told) or told)
        return last["latents"]

    goal = ends(500, "ddim")
    solver, ddim = ((ends(12, each) - goal).abs().mean() for each in (name, "ddim"))
    assert solver < ddim / 2


def test_a_scheduler_put_in_the_pipelines_place_is_used(checkpoint, config):
    """As in diffusers; a request that names one has its way."""
    pipeline = EMOPipeline.of(checkpoint)
    request = portrait(config), drive(config, 3)
    named = pipeline(*request, Sampling(5, scheduler="dpm++"))
    ddim = pipeline(*request, Sampling(5))
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    assert np.array_equal(pipeline(*request, Sampling(5)), named)
    assert np.array_equal(pipeline(*request, Sampling(5, scheduler="ddim")), ddim)


def test_guidance_weighs_what_is_shown_and_what_is_heard():
    """p(0, 0) + R (p(1, 0) - p(0, 0)) + A (p(1, 1) - p(1, 0)), for predictions made up by hand."""
    neither, shown, heard = 3.0, 5.0, 11.0
    made_up = {(0, 0): neither, (1, 0): shown, (1, 1): heard}
    for reference, audio in ((1, 1), (2, 2), (1, 3), (2.5, 4), (0, 1)):
        guided = sum(weight * made_up[seen, told] for seen, told, weight in Sampling(1, reference, audio).branches)
        assert guided == pytest.approx(neither + reference * (shown - neither) + audio * (heard - shown))


def test_a_branch_without_a_condition_does_not_hear_or_see_it(checkpoint, config):
    """At audio scale 0 the voice changes nothing; at both scales 0 neither does the portrait."""
    pipeline = EMOPipeline.of(checkpoint)
    voice = drive(config, 3)
    other = Drive(voice.audio + 5, voice.speed)
    still = portrait(config)
    turned = Portrait(still.picture.flip(-1), still.mask)
    for scales, same_voice, same_face in (((1, 0), True, False), ((0, 0), True, True), ((1, 2), False, False)):
        sampling = Sampling(2, *scales)
        made = pipeline(still, voice, sampling)
        assert np.array_equal(made, pipeline(still, other, sampling)) == same_voice
        assert np.array_equal(made, pipeline(turned, voice, sampling)) == same_face


def test_the_reference_is_looked_at_once_per_video(checkpoint, config, monkeypatch):
    """One pass for the portrait, one for each clip's last frames, however many steps there are."""
    pictures = []
    original = checkpoint.model.reference_net.forward
    monkeypatch.setattr(
        checkpoint.model.reference_net, "forward", lambda latents: pictures.append(len(latents)) or original(latents)
    )
    EMOPipeline.of(checkpoint)(portrait(config), drive(config, 3 * config.frames), Sampling(steps=4))
    assert pictures == [1, config.motion_frames, config.motion_frames]


def test_model_folder_comes_back_as_it_was(checkpoint, config, tmp_path):
    """Saved and loaded, through our functions and through the pipeline: the same video."""
    save(checkpoint, tmp_path / "model")
    request = portrait(config), drive(config, 4), Sampling(steps=2)
    expected = EMOPipeline.of(checkpoint)(*request)
    loaded = EMOPipeline.from_pretrained(tmp_path / "model")
    assert np.array_equal(loaded(*request), expected)
    loaded.save_pretrained(tmp_path / "again")
    assert np.array_equal(EMOPipeline.from_pretrained(tmp_path / "again")(*request), expected)
    assert load(tmp_path / "again").card == checkpoint.card
    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    assert {name for name in index if not name.startswith("_")} == {
        path.name for path in (tmp_path / "model").iterdir() if path.is_dir()
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_hears_as_the_whole_one(checkpoint, config, tmp_path, dtype):
    """torch_dtype and variant go to all parts but the ear, whose features the model was trained on."""
    save(checkpoint, tmp_path / "model")
    request = portrait(config), drive(config, 4), Sampling(steps=2)
    expected = EMOPipeline.of(checkpoint)(*request).astype(int)
    halved = EMOPipeline.from_pretrained(tmp_path / "model", torch_dtype=dtype)
    halved.save_pretrained(tmp_path / "half", variant="half")
    again = EMOPipeline.from_pretrained(tmp_path / "half", variant="half", torch_dtype=dtype)
    cast = EMOPipeline.from_pretrained(tmp_path / "model").to(dtype)
    for pipeline in (halved, again, cast):
        parts = {name: part.dtype for name, part in pipeline.components.items() if hasattr(part, "dtype")}
        assert parts.pop("audio_encoder") == torch.float32
        assert set(parts.values()) == {dtype} == {pipeline.dtype}
        assert np.abs(pipeline(*request) - expected).mean() < 4  # grey levels
    assert (tmp_path / "half/backbone/diffusion_pytorch_model.half.safetensors").is_file()
    with pytest.raises(UserError, match="backbone"):
        EMOPipeline.from_pretrained(tmp_path / "half")


def _drop_key(folder: Path) -> None:
    path = folder / "backbone" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights.pop("conv_out.bias")
    save_file(weights, path, metadata={"format": "pt"})


def _add_key(folder: Path) -> None:
    path = folder / "face_locator" / "diffusion_pytorch_model.safetensors"
    save_file({**load_file(path), "surplus.weight": torch.zeros(1)}, path, metadata={"format": "pt"})


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def _change_card(field: str, value: object):
    def change(folder: Path) -> None:
        card = json.loads((folder / "emo.json").read_text())
        (folder / "emo.json").write_text(json.dumps({**card, field: value}))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_drop_key, r"backbone.*missing keys: conv_out\.bias"),
        (_add_key, r"face_locator.*unexpected keys: surplus\.weight"),
        (lambda folder: shutil.rmtree(folder / "reference_net"), r"reference_net: this part of the model is missing"),
        (lambda folder: shutil.rmtree(folder / "scheduler"), "scheduler_config.json: cannot be read"),
        (lambda folder: _truncate(folder / "audio_encoder" / "model.safetensors"), "audio_encoder"),
        (lambda folder: _truncate(folder / "vae" / "diffusion_pytorch_model.safetensors"), "vae: cannot be loaded"),
        (_change_card("version", 1), "model version 1, this program reads version 3"),
        (_change_card("stage", 9), r"emo\.json: stage"),
        (_change_card("colour", "blue"), r"emo\.json: colour"),
        (_change_card("audio_fingerprint", "0000"), "trained with 0000"),
        (lambda folder: (folder / "emo.json").unlink(), "not an EMO model"),
        (lambda folder: (folder / "emo.json").write_text("{"), "cannot be read as JSON"),
    ],
)
def test_a_damaged_model_folder_is_refused_whole(checkpoint, tmp_path, damage, message):
    """Every missing or unexpected key, part, version is named; nothing is loaded by halves."""
    save(checkpoint, tmp_path / "model")
    damage(tmp_path / "model")
    with pytest.raises(UserError, match=message):
        load(tmp_path / "model")


def test_a_model_of_another_stage_is_refused(checkpoint, tmp_path):
    """Where one stage is needed, no other will do."""
    save(checkpoint, tmp_path / "model")
    assert read_card(tmp_path / "model").stage == 3
    with pytest.raises(UserError, match="stage 3, but one of stage 1 is needed"):
        load(tmp_path / "model", stage=1)


def test_a_failed_save_leaves_the_old_model(checkpoint, tmp_path, monkeypatch):
    """All or nothing: an error in the middle of writing changes nothing on disk."""
    save(checkpoint, tmp_path / "model")
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))

    def full(*_args: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint.audio_encoder, "save", full)
    with pytest.raises(OSError, match="no space"):
        save(checkpoint, tmp_path / "model")
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before
    load(tmp_path / "model")


def test_the_linear_codec_keeps_what_its_components_hold():
    """Pictures made of as many patterns as there are channels come back whole; unit variance goes into diffusion."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randn(5, 3 * 16, generator=generator)
    patches = torch.randn(64, 4, 4, 5, generator=generator) @ patterns * 0.02
    pictures = torch.nn.functional.pixel_shuffle(patches.movedim(-1, 1), 4)
    codec = LinearCodec.fit(pictures, patch=4, latent_channels=5)
    latents = encode_pictures(codec, pictures)
    assert latents.shape == (64, 5, 4, 4)
    assert float(latents.var()) == pytest.approx(1, rel=0.01)
    assert torch.allclose(decode_latents(codec, latents), pictures, atol=1e-4)


def test_sampling_steps_through_the_schedule_of_the_loss(checkpoint, config, monkeypatch):
    """The sampler's own copy has the very alphas that the loss drew its noise with."""
    alphas = []
    original = type(checkpoint.scheduler).step

    def watched(self, *args, **kwargs):
        alphas.append(self.alphas_cumprod)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(type(checkpoint.scheduler), "step", watched)
    EMOPipeline.of(checkpoint)(portrait(config), drive(config, 3), Sampling(steps=2))
    assert len(alphas) == 2
    assert all(torch.equal(seen, checkpoint.scheduler.alphas_cumprod) for seen in alphas)
