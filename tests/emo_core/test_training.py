"""The three stages on a handful of made-up clips: what trains, what resumes, what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, MotionAdapter

from emo_core import lanes
from emo_core.checkpoint import fingerprint, load
from emo_core.model.codec import LinearCodec
from emo_core.model.emo import build
from emo_core.training import loop
from emo_core.training.loop import DivergedError, Trainer
from emo_core.training.optim import load_optimizer, make_optimizer, save_optimizer
from emo_core.training.stages import trained_parameters
from emo_core.training.step import StageLoss, accumulate
from emo_data.errors import UserError
from emo_data.schema import SCHEMA_VERSION
from emo_data.store import Dataset
from tests.emo_core.conftest import awake, batch_loss
from tests.emo_core.runs import CPU, clip_ids, finished, metrics, prepare, recipe, row, weights

GOLDEN = Path(__file__).parent.parent / "golden" / "tiny_losses.json"
pytestmark = pytest.mark.usefixtures("smallest")


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_resumed_run_equals_one_that_never_stopped(data, tmp_path, models, stage):
    """3 steps, a stop, 3 more: bit for bit 6 steps, in weights, losses and the optimiser that made them."""
    init = models[stage - 1]
    whole = finished(stage, data, tmp_path / "whole", init)
    stopped = prepare(recipe(stage), data, tmp_path / "parts", init, CPU)

    class Stop(Exception):
        pass

    def stop_after_four(done: int, _total: int, _note: str) -> None:
        if done == 4:  # one step past the checkpoint: it must be forgotten
            raise Stop

    with pytest.raises(Stop):
        stopped.train(stop_after_four)
    resumed = prepare(recipe(stage), data, tmp_path / "parts", init, CPU)
    steps = []
    resumed.train(lambda done, _total, _note: steps.append(done))
    assert steps == [4, 5, 6]
    expected, found = weights(whole), weights(Path(resumed.run.model))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    losses = [[line["loss"] for line in metrics(tmp_path / name)] for name in ("whole", "parts")]
    assert losses[0] == losses[1]
    assert not (tmp_path / "parts" / "checkpoints").exists()


SPATIAL = ("backbone.", "reference_net.", "face_locator.")
LAST = "reference_net.up_blocks.1.attentions.1"
BEHIND = tuple(f"{LAST}.{part}" for part in ("transformer_blocks.0.ff.", "transformer_blocks.0.norm3.", "proj_out."))
"""What no picture depends on: ReferenceNet behind the last place that is read."""


@pytest.mark.parametrize(("stage", "train_spatial"), [(1, False), (2, False), (2, True), (3, False)])
def test_stage_trains_its_parts_and_nothing_else(data, tmp_path, models, stage, train_spatial):
    """Gradients, optimiser and the change on disk agree with what the paper says of the stage."""
    wanted = recipe(stage, steps=2, learning_rate=1e-2, train_spatial=train_spatial)
    trainer = prepare(wanted, data, tmp_path / "run", models[stage - 1], CPU)
    before = {name: value.clone() for name, value in trainer.checkpoint.model.state_dict().items()}
    trainer.train()
    after = weights(Path(trainer.run.model))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    expected = {
        1: lambda name: name.startswith(SPATIAL) and not name.startswith(BEHIND),
        2: lambda name: (
            "motion_modules." in name
            or "_audio." in name
            or name.startswith("audio_projection.")
            or (train_spatial and name.startswith(SPATIAL))
        ),
        3: lambda name: "motion_modules." in name or name.startswith("speed_encoder."),
    }[stage]
    assert moved
    assert all(expected(name) for name in moved), [name for name in moved if not expected(name)]
    trained = trained_parameters(trainer.checkpoint.model, wanted)
    assert set(trained) == {name for name, _ in trainer.checkpoint.model.named_parameters() if expected(name)}
    # Zero-initialised outputs hold back what lies behind them for one step; everything of a live branch has moved.
    assert len(moved) > 0.7 * len(trained)


@pytest.mark.parametrize("stage", [1, 3])
def test_the_spatial_part_is_a_question_of_stage_2_only(data, tmp_path, models, stage):
    with pytest.raises(UserError, match="--train-spatial"):
        prepare(recipe(stage, train_spatial=True), data, tmp_path / "run", models[stage - 1], CPU)
    assert not (tmp_path / "run").exists()


def test_golden_losses_of_the_stages(data, tmp_path, models):
    """The first losses of every stage; where a change is meant, the failure shows the new ones."""
    found = {}
    for stage in (1, 2, 3):
        finished(stage, data, tmp_path / f"golden{stage}", models[stage - 1], steps=3, learning_rate=1e-4)
        found[str(stage)] = [line["loss"] for line in metrics(tmp_path / f"golden{stage}")]
    golden = json.loads(GOLDEN.read_text())
    assert found.keys() == golden.keys(), json.dumps(found)
    assert all(found[stage] == pytest.approx(golden[stage], rel=1e-3) for stage in golden), json.dumps(found)


def test_accumulation_equals_the_whole_batch(model, batch, scheduler):
    """Two micro-batches of one give the gradients of one batch of two; side by side or not, to the last bit."""
    trained = list(trained_parameters(model, recipe(2, train_spatial=True)).values())
    losses_of = StageLoss(model, scheduler, recipe(3))

    def gathered(micro, side_by_side):
        model.zero_grad()
        losses = accumulate(losses_of, trained, batch, micro, side_by_side=side_by_side)
        return [losses.mean(), *(parameter.grad for parameter in trained)]

    whole, one_by_one, at_once = gathered(2, 1), gathered(1, 1), gathered(1, 2)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(whole, one_by_one, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(one_by_one, at_once, strict=True))


def test_the_fused_optimiser_steps_on_convolutions_as_a_plain_one_does(config, tmp_path):
    """Weights that are laid out channels-last, and moments that were saved and read again, are matched by place."""
    torch.manual_seed(0)
    fused_model = build(config, 1).channels_last()
    plain_model = build(config, 1)
    plain_model.load_state_dict(fused_model.state_dict())
    fused_named, plain_named = dict(fused_model.named_parameters()), dict(plain_model.named_parameters())
    fused = make_optimizer(fused_named, recipe(1))
    plain = torch.optim.AdamW(
        [
            {
                **group,
                "params": [plain_named[n] for n, p in fused_named.items() if any(p is q for q in group["params"])],
            }
            for group in fused.param_groups
        ],
        fused=False,
    )
    assert any(p.stride() != q.stride() for p, q in zip(fused_named.values(), plain_named.values(), strict=True))
    for _ in range(2):
        for name, parameter in plain_named.items():
            parameter.grad = torch.randn(parameter.shape)
            fused_named[name].grad = torch.empty_like(fused_named[name]).copy_(parameter.grad)
        fused.step()
        plain.step()
        save_optimizer(fused, fused_named, tmp_path / "o.safetensors")
        fused = make_optimizer(fused_named, recipe(1))
        load_optimizer(fused, fused_named, tmp_path / "o.safetensors")
    for name, parameter in plain_named.items():
        assert torch.allclose(fused_named[name], parameter, atol=1e-6), name


def test_gradients_are_laid_out_as_their_parameters(model, batch, scheduler):
    """A fused optimiser takes the two to be alike, and does not look."""
    trained = list(trained_parameters(model, recipe(2, train_spatial=True)).values())
    for side_by_side in (1, 2):
        model.zero_grad()
        accumulate(StageLoss(model, scheduler, recipe(3)), trained, batch, 1, side_by_side=side_by_side)
        assert all(p.grad.stride() == p.stride() for p in trained)


def test_micro_batches_take_the_cores_of_a_cpu(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr("emo_core.lanes.cores", lambda: 8)
    assert lanes.side_by_side(CPU) == 4
    assert lanes.side_by_side(torch.device("meta")) == 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    assert lanes.side_by_side(CPU) == 1


def test_bfloat16_and_checkpointing_train_too(data, tmp_path):
    """What the full-size recipes use: the losses are those of float32, but for bfloat16's rounding."""
    losses = []
    for number, changes in enumerate(({}, {"bf16": True, "gradient_checkpointing": True})):
        folder = tmp_path / str(number)
        finished(1, data, folder, steps=3, learning_rate=1e-4, **changes)
        losses.append([line["loss"] for line in metrics(folder)])
    assert losses[1] == pytest.approx(losses[0], rel=0.03)
    assert losses[1] != losses[0]


def test_a_run_that_goes_on_keeps_its_codec(data, tmp_path, monkeypatch):
    """A new fit could differ in its last bits; the latents of one run are all of one codec."""
    first = prepare(recipe(1), data, tmp_path / "run", None, CPU).checkpoint.codec
    fit = LinearCodec.fit
    monkeypatch.setattr(LinearCodec, "fit", lambda *arguments: fit(arguments[0] * 0.5, *arguments[1:]))
    again = prepare(recipe(1), data, tmp_path / "run", None, CPU).checkpoint.codec
    other = prepare(recipe(1), data, tmp_path / "other", None, CPU).checkpoint.codec
    assert torch.equal(first.gain, again.gain) and not torch.equal(first.gain, other.gain)


def test_a_run_that_was_killed_as_it_began_goes_on(data, tmp_path):
    prepare(recipe(1), data, tmp_path / "run", None, CPU)
    shutil.rmtree(tmp_path / "run" / "vae")
    (tmp_path / "run" / ".run.json.0123").write_text("half")
    assert prepare(recipe(1), data, tmp_path / "run", None, CPU).run.newest() == 0


@pytest.mark.parametrize("condition", ["reference", "motion"])
def test_dropped_conditions_are_dropped(model, batch, scheduler, condition):
    """With the reference dropped, which portrait it was makes no difference; so for the frames before."""
    for keep, alike in ((0, True), (1, False)):
        told = replace(batch, **{f"keep_{condition}": torch.full((2,), float(keep))})
        other = replace(told, **{condition: -getattr(batch, condition)})
        with torch.no_grad():
            losses = [batch_loss(model, scheduler, each, None) for each in (told, other)]
        assert torch.equal(*losses) == alike


def test_training_and_sampling_share_one_schedule(data, tmp_path, models):
    """The schedule that the loss used is the one that the model folder carries on to the sampler."""
    trainer = prepare(recipe(3, steps=1), data, tmp_path / "run", models[2], CPU)
    trainer.train()
    saved = load(Path(trainer.run.model)).scheduler
    assert dict(saved.config) == dict(trainer.checkpoint.scheduler.config)
    assert torch.equal(saved.alphas_cumprod, trainer.checkpoint.scheduler.alphas_cumprod)


def test_lineage_names_the_models_before(data, tmp_path, models):
    """A stage 3 model says which stage 1 and stage 2 it came from."""
    third = finished(3, data, tmp_path / "third", models[2], steps=1)
    assert load(third).card.lineage == [fingerprint(models[1]), fingerprint(models[2])]


def test_stages_out_of_order_are_refused(data, tmp_path, models):
    """Each with one clear line, and without a folder left behind."""
    for stage, init, message in [
        (2, None, "--init"),
        (1, models[1], "--init"),
        (3, models[1], "a model of stage 1, but one of stage 2"),
        (2, tmp_path / "nowhere", "not an EMO model"),
    ]:
        with pytest.raises(UserError, match=message):
            prepare(recipe(stage), data, tmp_path / "out", init, CPU)
        assert not (tmp_path / "out").exists()


def test_wrong_datasets_are_refused(data, tmp_path, models, encoder, config):
    """Empty, of another schema version, of another extractor."""
    empty = str(tmp_path / "empty")
    Dataset.create(empty, {"fps": 25.0, "size": config.size, "audio_model": "tiny"})
    with pytest.raises(UserError, match="no clips"):
        prepare(recipe(1), empty, tmp_path / "out", None, CPU)
    head = Path(data) / "dataset.json"
    text = head.read_text()
    head.write_text(text.replace(f'"schema_version": {SCHEMA_VERSION}', '"schema_version": 99'))
    with pytest.raises(UserError, match="version 99"):
        prepare(recipe(1), data, tmp_path / "out", None, CPU)
    head.write_text(text)
    foreign = str(tmp_path / "foreign")
    dataset = Dataset.create(foreign, {"fps": 25.0, "size": config.size, "audio_model": "tiny"})
    dataset.write_source("0", "0.mp4", "0", [{**row(0, encoder, config.size), "audio_extractor": "another"}], [])
    with pytest.raises(UserError, match=r"extractor.*another"):
        prepare(recipe(2), foreign, tmp_path / "out", models[1], CPU)
    assert not (tmp_path / "out").exists()


def test_clips_without_a_voice_are_for_stage_1_only(tmp_path, encoder, config, models):
    """A silent clip is used in stage 1; stage 2 has nothing to learn from it and says so."""
    silent = str(tmp_path / "silent")
    dataset = Dataset.create(silent, {"fps": 25.0, "size": config.size, "audio_model": "tiny"})
    dataset.write_source("0", "0.mp4", "0", [{**row(0, encoder, config.size), "sound_state": "silent"}], [])
    assert len(prepare(recipe(1), silent, tmp_path / "one", None, CPU).index) == 1
    with pytest.raises(UserError, match="with a voice"):
        prepare(recipe(2), silent, tmp_path / "two", models[1], CPU)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_diverged_run_stops_and_names_the_sample(data, tmp_path, monkeypatch, where):
    """The last good weights stay, even those after the last checkpoint; whose fault it was is said."""
    trainer: Trainer = prepare(recipe(1), data, tmp_path / "run", None, CPU)
    draw, seen = loop.batches, []

    def spoilt(*arguments):
        for step, batch in enumerate(draw(*arguments)):
            seen.append(batch.origins[1])
            if step == 4:  # a weight that is no number, or one that only its square root's gradient stumbles over
                bad = batch.weight.clone()
                bad[1] = float("nan") if where == "loss" else 1e38
                batch = replace(batch, weight=bad)
            yield batch

    monkeypatch.setattr(loop, "batches", spoilt)
    with pytest.raises(DivergedError, match="step 5") as raised:
        trainer.train()
    clip, start, reference = seen[4]
    assert f"{trainer.index.name(clip)} from frame {start}, reference {reference}." in str(raised.value)
    assert "--keep" in str(raised.value)
    assert trainer.run.checkpoints() == [3, 4] and not trainer.run.finished()


def test_a_folder_of_another_run_is_left_alone(data, tmp_path):
    """Other settings in the same folder are an error that changes nothing."""
    prepare(recipe(1), data, tmp_path / "run", None, CPU)
    before = (tmp_path / "run" / "run.json").read_text()
    with pytest.raises(UserError, match="another run"):
        prepare(recipe(1, seed=7), data, tmp_path / "run", None, CPU)
    assert (tmp_path / "run" / "run.json").read_text() == before


def test_a_codec_is_swapped_by_a_path(data, tmp_path, config):
    """Stage 1 with a VAE in the diffusers convention: the model takes its channels and carries it on."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=config.size,
    )
    vae.save_pretrained(tmp_path / "public" / "vae")
    trainer = prepare(recipe(1, steps=1), data, tmp_path / "run", None, CPU, tmp_path / "public")
    assert set(trainer.run.card.weights) == {"vae"}
    trainer.train()
    loaded = load(Path(trainer.run.model))
    assert isinstance(loaded.codec, AutoencoderKL)
    assert loaded.card.config.latent_channels == 4
    assert all(torch.equal(value, vae.state_dict()[name]) for name, value in loaded.codec.state_dict().items())
    AutoencoderKL(block_out_channels=(8,), latent_channels=4, norm_num_groups=4).save_pretrained(
        tmp_path / "coarse" / "vae"
    )
    with pytest.raises(UserError, match="--weights"):
        prepare(recipe(1), data, tmp_path / "out", None, CPU, tmp_path / "coarse")
    assert not (tmp_path / "out").exists()


def test_animatediff_weights_are_where_stage_two_starts(data, tmp_path, models, config):
    """They are loaded or the run does not begin; a run that starts from others is another run."""
    adapter = awake(
        MotionAdapter(
            block_out_channels=config.channels,
            motion_layers_per_block=config.layers_per_block,
            motion_num_attention_heads=config.temporal_heads,
            motion_norm_num_groups=config.norm_groups,
            use_motion_mid_block=True,
        )
    )
    adapter.save_pretrained(tmp_path / "public" / "motion")
    trainer = prepare(recipe(2), data, tmp_path / "run", models[1], CPU, tmp_path / "public")
    state = trainer.checkpoint.model.backbone.state_dict()
    assert all(torch.equal(state[name], value) for name, value in adapter.state_dict().items())
    with pytest.raises(UserError, match="another run"):
        prepare(recipe(2), data, tmp_path / "run", models[1], CPU)
    MotionAdapter(block_out_channels=(8,), motion_norm_num_groups=4).save_pretrained(tmp_path / "other" / "motion")
    with pytest.raises(UserError, match=r"--weights .*missing for Backbone: down_blocks"):
        prepare(recipe(2), data, tmp_path / "out", models[1], CPU, tmp_path / "other")
    assert not (tmp_path / "out").exists()


def test_other_layers_of_the_same_extractor_are_refused(data, tmp_path, models, encoder, config):
    """As many layers of the same width are not yet the same features."""
    foreign = str(tmp_path / "foreign")
    dataset = Dataset.create(foreign, {"fps": 25.0, "size": config.size, "audio_model": "tiny"})
    other = np.array([layer + 1 for layer in encoder.layers], np.int32)
    dataset.write_source("0", "0.mp4", "0", [{**row(0, encoder, config.size), "audio_layers": other}], [])
    with pytest.raises(UserError, match="layers"):
        prepare(recipe(3), foreign, tmp_path / "out", models[2], CPU)


def test_another_frame_rate_is_refused(data, tmp_path, encoder, config):
    """The model is run at 25 frames per second, so it is trained at no other."""
    fast = str(tmp_path / "fast")
    dataset = Dataset.create(fast, {"fps": 30.0, "size": config.size, "audio_model": "tiny"})
    dataset.write_source("0", "0.mp4", "0", [row(0, encoder, config.size)], [])
    with pytest.raises(UserError, match="--fps 25"):
        prepare(recipe(1), fast, tmp_path / "out", None, CPU)


def test_the_model_is_the_running_mean_of_its_weights(data, tmp_path):
    """w1, w2, w3 with decays 1/10, 2/11, 3/12 and no more than 0.15; the optimiser goes its own way."""
    seen = []
    trainer = prepare(recipe(1, steps=3, ema_decay=0.15), data, tmp_path / "run", None, CPU)
    mean = {name: value.clone() for name, value in trainer.checkpoint.model.state_dict().items()}

    def on_step(done: int, *_: object) -> None:
        now = trainer.checkpoint.model.state_dict()
        decay = min(0.15, done / (9 + done))
        for name, value in now.items():
            mean[name] = decay * mean[name] + (1 - decay) * value
        seen.append({name: value.clone() for name, value in now.items()})

    trainer.train(on_step)
    found = weights(Path(trainer.run.model))
    assert all(torch.allclose(found[name], mean[name], atol=1e-6) for name in found)
    assert any(not torch.equal(found[name], seen[-1][name]) for name in found)


def test_the_loss_on_people_who_are_held_out(data, tmp_path, encoder, config):
    """Always the same samples: without a step between, the same loss; and no sample of it is ever trained on."""
    dataset = Dataset.open(data)
    for index in (7, 8):
        dataset.write_source(
            str(index), f"{index}.mp4", str(index), [row(index, encoder, config.size) | {"split": "test"}], []
        )
    still = finished(1, data, tmp_path / "still", validate_every=1, learning_rate=1e-12, steps=3).parent
    told = [line["validation_loss"] for line in metrics(still)]
    assert told[0] == pytest.approx(told[2], rel=1e-5) and told[0] > 0
    moving = finished(1, data, tmp_path / "moving", validate_every=2, steps=5).parent
    assert [line["step"] for line in metrics(moving) if "validation_loss" in line] == [2, 4, 5]
    trainer = prepare(recipe(1), data, tmp_path / "run", None, CPU)
    assert clip_ids(trainer.index) == [f"clip{n}" for n in range(3)]
    assert len(trainer.held_out) == 2


def test_what_a_run_tells_is_there_for_tensorboard(data, tmp_path):
    run = finished(1, data, tmp_path / "run").parent
    events = b"".join(path.read_bytes() for path in (run / "tensorboard").iterdir())
    assert all(key.encode() in events for key in metrics(run)[0] if key != "step")
    assert {path.suffix for path in (run / "previews").iterdir()} == {".png"}


def test_compiled_it_learns_the_same(data, tmp_path, monkeypatch):
    """Forth and back through torch.compile's graphs; making machine code of them would take this test ten minutes."""
    compiler = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda *given, **told: compiler(*given, **told, backend="aot_eager")
    )
    finished(1, data, tmp_path / "plain", steps=2, learning_rate=1e-4)
    finished(1, data, tmp_path / "compiled", steps=2, learning_rate=1e-4, compiled=True)
    plain, compiled = ([line["loss"] for line in metrics(tmp_path / name)] for name in ("plain", "compiled"))
    assert compiled == pytest.approx(plain, rel=1e-4)
