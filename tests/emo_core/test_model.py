"""The networks against diffusers' own, and the bugs that other talking-head projects have had."""

from dataclasses import replace

import pytest
import torch
from diffusers import MotionAdapter, UNet2DConditionModel

from emo_core.diffusion import diffusion_losses, diffusion_target, noise_schedule, timesteps_at
from emo_core.model.attention import attend, project
from emo_core.model.backbone import Conditions, join
from emo_core.model.config import sd15, tiny
from emo_core.model.emo import build, grow, masked, stack_motion
from emo_core.model.speed import SpeedEncoder, fit_buckets
from emo_core.model.temporal import TemporalModule
from tests.emo_core.conftest import BUCKETS, awake, batch_loss


def tell(model, reference, motion, batch):
    """All conditions of a batch."""
    return Conditions(
        reference, model.hear(batch.audio), motion, model.pace(batch.speed), model.face_locator(batch.mask)
    )


def predict(model, batch, scheduler):
    """The Backbone's prediction for a batch, as training computes it."""
    reference = model.backbone.project_reference(model.reference_net(batch.reference).attention)
    motion = stack_motion(model.reference_net(batch.motion.flatten(0, 1)).maps, len(batch.motion))
    conditions = tell(model, reference, motion, batch)
    timestep = timesteps_at(scheduler, batch.strata)
    return model.backbone(scheduler.add_noise(batch.latents, batch.noise, timestep), timestep, conditions)


def test_spatial_part_equals_diffusers_unet(config):
    """Choice of names and order: SD 1.5's UNet without its text branch is ours without the added branches."""
    config = config.model_copy(update={"latent_channels": 4, "layers_per_block": 2, "channels": (8, 16, 16)})
    config = config.model_copy(update={"attention": (True, True, False)})
    torch.manual_seed(0)
    theirs = UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        block_out_channels=config.channels,
        layers_per_block=2,
        norm_num_groups=config.norm_groups,
        attention_head_dim=config.heads,
        cross_attention_dim=12,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()
    ours = build(config, 3, BUCKETS).eval().backbone
    weights = theirs.state_dict()
    text = {key for key in weights if ".attn2.to_k." in key or ".attn2.to_v." in key}
    added = ("motion_modules.", "attn_audio.", "norm_audio.", ".attn2.to_k.", ".attn2.to_v.")
    state = ours.state_dict()
    assert {key for key in state if not any(name in key for name in added)} == set(weights) - text
    ours.load_state_dict({**state, **{key: value for key, value in weights.items() if key not in text}})
    with torch.no_grad():
        for unet in (theirs, ours):
            for name, parameter in unet.named_parameters():
                if ".attn2.to_out." in name:
                    parameter.zero_()
        latents, timestep = torch.randn(2, 4, 8, 8), torch.tensor([3, 700])
        expected = theirs(latents, timestep, torch.randn(2, 5, 12)).sample
        reference = ours.project_reference(
            {name: torch.randn(2, 7, layer.proj_in.out_channels) for name, layer in ours.spatial_places()}
        )
        motion = {name: torch.zeros(2, shape[0], 0, *shape[1:]) for name, shape in _map_shapes(ours, latents).items()}
        tokens = torch.randn(2, 1, 3, config.audio_token_width), torch.randn(2, 1, config.speed_width)
        conditions = Conditions(
            reference, ours.project_audio(tokens[0]), motion, ours.project_speed(tokens[1]), torch.zeros(2, 4, 8, 8)
        )
        found = ours(latents[:, None], timestep, conditions)[:, 0]
    assert (found - expected).abs().max() < 1e-5


def _map_shapes(backbone, latents):
    shapes = {}
    time = backbone.embed_time(torch.zeros(len(latents)), 1)

    def at_temporal(name, _layer, maps):
        shapes[name] = maps.shape[1:]
        return maps

    backbone.walk(backbone.conv_in(latents), time, lambda _n, _l, maps: maps, at_temporal)
    return shapes


def test_temporal_modules_equal_animatediff(config):
    """A MotionAdapter's weights load by name, and its module computes what ours computes without motion frames."""
    config = config.model_copy(update={"channels": (8, 16), "layers_per_block": 2})
    torch.manual_seed(0)
    adapter = MotionAdapter(
        block_out_channels=config.channels,
        motion_layers_per_block=2,
        motion_num_attention_heads=config.temporal_heads,
        motion_norm_num_groups=config.norm_groups,
        use_motion_mid_block=True,
    ).eval()
    ours = build(config, 2).eval().backbone
    theirs = awake(adapter).state_dict()
    assert {key for key in ours.state_dict() if "motion_modules" in key} == set(theirs)
    ours.load_state_dict({**ours.state_dict(), **theirs})
    maps = torch.randn(2 * 5, 16, 4, 4)
    with torch.no_grad():
        expected = adapter.mid_block.motion_modules[0](maps, num_frames=5)
        found = ours.mid_block.motion_modules[0](maps, torch.zeros(2, 16, 0, 4, 4))
    assert (found - expected).abs().max() < 1e-5


def test_what_frames_say_enters_a_new_temporal_module_unchanged():
    """What all say alike, each hears: of random values a tenth would arrive, and motion frames would not be learnt."""
    module = TemporalModule(16, 2, 4, None)
    same = torch.randn(3, 1, 16).expand(-1, 5, -1)
    assert torch.equal(module.proj_in(same), same)
    for attention in (module.block.attn1, module.block.attn2):
        assert torch.allclose(attend(attention, same, project(attention, same)), same, atol=1e-6)


def test_how_large_referencenets_maps_are_does_not_matter(config):
    """Nothing bounds them in training, and beside maps a million times as large a clip's own would vanish."""
    torch.manual_seed(0)
    module = awake(build(config, 2)).eval().backbone.mid_block.motion_modules[0]
    maps, motion = torch.randn(2 * 5, 16, 4, 4), torch.randn(2, 16, 3, 4, 4)
    with torch.no_grad():
        expected, found = module(maps, motion), module(maps, motion * 1e6)
        forgotten = module(maps, torch.zeros_like(motion))
    assert (found - expected).abs().max() < 1e-4
    assert (forgotten - expected).abs().max() > 1e-2


def test_full_size_is_the_papers():
    """Counted without memory: SD 1.5's UNet less the text width, AnimateDiff's modules at all 21 places."""
    with torch.device("meta"):
        model = build(sd15(), 3, BUCKETS)
    temporal = [layer for _, layer in model.backbone.temporal_places()]
    assert len(temporal) == 21
    speed = sum(p.numel() for name, p in model.backbone.named_parameters() if "_speed." in name)
    animatediff = sum(p.numel() for layer in temporal for p in layer.parameters()) - speed
    assert round(animatediff / 1e6) == 453
    spatial = [
        (name, p)
        for name, p in model.backbone.named_parameters()
        if not any(new in name for new in ("motion_modules.", "_audio."))
    ]
    text_width = {name: p for name, p in spatial if ".attn2.to_k." in name or ".attn2.to_v." in name}
    as_text = sum(p.shape[0] * 768 for p in text_width.values())
    assert sum(p.numel() for _, p in spatial) - sum(p.numel() for p in text_width.values()) + as_text == 859_520_964


def test_tiny_differs_in_numbers_only():
    """The same classes at the same kind of place."""
    kinds = []
    for config in (sd15(), tiny()):
        with torch.device("meta"):
            kinds.append({type(module) for module in build(config, 3, BUCKETS).modules()})
    assert kinds[0] == kinds[1]


def test_new_layers_change_nothing_until_trained(config, batch, scheduler):
    """Stage 2 starts where stage 1 ended, stage 3 where stage 2 ended."""
    torch.manual_seed(0)
    first = awake(build(config, 1)).eval()
    second = grow(first, config, 2).eval()
    third = grow(second, config, 3, BUCKETS).eval()
    with torch.no_grad():
        outputs = [predict(model, batch, scheduler) for model in (first, second, third)]
    assert torch.allclose(outputs[0], outputs[1], atol=1e-6)
    assert torch.allclose(outputs[1], outputs[2], atol=1e-6)


def test_later_stage_keeps_what_the_earlier_trained(config):
    """Audio- and temporal outputs that stage 2 trained away from zero are still away from zero in stage 3."""
    second = awake(build(config, 2))
    third = grow(second, config, 3, BUCKETS)
    for name, value in second.backbone.state_dict().items():
        assert torch.equal(third.backbone.state_dict()[name], value), name
    zero_at_first = [name for name in second.backbone.state_dict() if "attn_audio.to_out" in name]
    assert zero_at_first
    assert all(third.backbone.state_dict()[name].any() for name in zero_at_first)


def test_growing_refuses_a_stage_with_missing_weights(config):
    """Stage 3 cannot start from stage 1: the audio layers would be silently new."""
    with pytest.raises(ValueError, match=r"attn_audio"):
        grow(build(config, 1), config, 3, BUCKETS)


def test_train_and_eval_mode_agree(model, batch, scheduler):
    """Motion frames and every other branch work outside training, too."""
    with torch.no_grad():
        in_eval = predict(model, batch, scheduler)
        in_train = predict(model.train(), batch, scheduler)
    assert torch.equal(in_eval, in_train)


def test_gradient_checkpointing_changes_nothing(model, batch, scheduler):
    """Same loss and same gradients with checkpointing on and off."""
    gradients = []
    for network in (None, model.backbone):
        if network is not None:
            network.enable_gradient_checkpointing()
            assert network.gradient_checkpointing
        model.zero_grad()
        batch_loss(model, scheduler, batch, None).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.allclose(gradients[0][name], gradients[1][name], atol=1e-6) for name in gradients[0])


@pytest.mark.parametrize("condition", ["reference", "motion", "audio", "speed", "mask"])
def test_every_condition_reaches_the_output(model, batch, scheduler, condition):
    """None is ignored: changing it changes the prediction."""
    other = replace(batch, **{condition: 1 - getattr(batch, condition)})
    with torch.no_grad():
        change = (predict(model, other, scheduler) - predict(model, batch, scheduler)).abs().max()
    assert change > 1e-4


def test_the_face_locator_may_speak_to_features_instead_of_latents(config, batch, scheduler):
    """Its code then has the channels of the first convolution's output; asleep, it changes nothing in either place."""
    torch.manual_seed(0)
    paper = build(config, 3, BUCKETS).eval()
    peers = build(config.model_copy(update={"location": "features"}), 3, BUCKETS).eval()
    alike = {name: value for name, value in paper.state_dict().items() if "face_locator.conv_out" not in name}
    peers.load_state_dict({**peers.state_dict(), **alike})
    assert peers.face_locator(batch.mask).shape[1:] == (config.channels[0], *config.latent_shape[1:])
    with torch.no_grad():
        asleep = [predict(model, batch, scheduler) for model in (paper, peers)]
        assert torch.equal(*asleep)
        awake(peers)
        other = replace(batch, mask=1 - batch.mask)
        assert (predict(peers, other, scheduler) - predict(peers, batch, scheduler)).abs().max() > 1e-4


def test_clips_of_a_batch_do_not_mix(model, batch, scheduler):
    """Two clips together are each what they are alone."""
    with torch.no_grad():
        together = predict(model, batch, scheduler)
        alone = torch.cat([predict(model, batch.part(i, i + 1), scheduler) for i in range(2)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_joined_conditions_are_those_of_each(model, batch, scheduler):
    """What two clips are told, put together, is to each what it is alone."""
    batch = replace(batch, speed=batch.speed * torch.tensor([0.2, 1.0]).view(2, 1, 1))
    told, alone = [], []
    timestep = timesteps_at(scheduler, batch.strata)
    with torch.no_grad():
        for index in range(2):
            one = batch.part(index, index + 1)
            reference = model.backbone.project_reference(model.reference_net(one.reference).attention)
            motion = stack_motion(model.reference_net(one.motion.flatten(0, 1)).maps, 1)
            told.append(tell(model, reference, motion, one))
            alone.append(model.backbone(one.latents, timestep[index : index + 1], told[-1]))
        together = model.backbone(batch.latents, timestep, join(told))
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_interleaved_requests_equal_separate_ones(model, batch, scheduler):
    """Nothing is remembered between calls: B between A and A leaves A as it was, bit for bit."""
    first, second = batch.part(0, 1), batch.part(1, 2)
    with torch.no_grad():
        alone = predict(model, first, scheduler)
        features = model.reference_net(first.reference)
        predict(model, second, scheduler)
        reference = model.backbone.project_reference(features.attention)
        motion = stack_motion(model.reference_net(first.motion.flatten(0, 1)).maps, 1)
        predict(model, second, scheduler)
        conditions = tell(model, reference, motion, first)
        timestep = timesteps_at(scheduler, first.strata)
        noisy = scheduler.add_noise(first.latents, first.noise, timestep)
        assert torch.equal(model.backbone(noisy, timestep, conditions), alone)


def test_first_clip_has_zero_maps_in_training_and_inference(model, batch, scheduler):
    """A dropped motion condition in training is the very tensor that inference starts with."""
    maps = model.reference_net(batch.motion.flatten(0, 1)).maps
    dropped = masked(stack_motion(maps, 2), torch.zeros(2))
    seen = model.reference_net(batch.reference[:1])
    for name, value in model.backbone.zero_motion(seen.maps, 2, batch.motion.shape[1]).items():
        assert torch.equal(value, dropped[name])


def test_loss_weights_each_sample_by_its_own_timestep():
    """Against numbers computed by hand for two timesteps."""
    scheduler = noise_schedule("v_prediction")
    prediction = torch.tensor([[1.0, 1.0], [3.0, 3.0]])
    timestep = torch.tensor([100, 800])
    alpha = scheduler.alphas_cumprod[timestep]
    snr = alpha / (1 - alpha)
    assert snr[0] > 5 > snr[1] + 1
    by_hand = (1.0 * 5 / (snr[0] + 1) + 9.0) / 2
    assert float(diffusion_losses(scheduler, prediction, torch.zeros(2, 2), timestep, 5.0).mean()) == pytest.approx(
        float(by_hand)
    )
    assert float(diffusion_losses(scheduler, prediction, torch.zeros(2, 2), timestep, None).mean()) == pytest.approx(
        5.0
    )


def test_predictions_are_weighted_alike():
    """The same error of the clean latents costs the same, whatever it is that the model predicts."""
    generator = torch.Generator().manual_seed(0)
    clean, noise, guess = torch.randn(3, 2, 8, generator=generator)
    timestep = torch.tensor([300, 900])
    losses = []
    for kind in ("sample", "v_prediction", "epsilon"):
        scheduler = noise_schedule(kind)
        scheduler.alphas_cumprod = noise_schedule("sample").alphas_cumprod
        noisy = scheduler.add_noise(clean, noise, timestep)
        alpha = scheduler.alphas_cumprod[timestep].sqrt()[:, None]
        sigma = (1 - scheduler.alphas_cumprod[timestep]).sqrt()[:, None]
        guessed_noise = (noisy - alpha * guess) / sigma
        said = {"sample": guess, "epsilon": guessed_noise, "v_prediction": alpha * guessed_noise - sigma * guess}[kind]
        target = diffusion_target(scheduler, clean, noise, timestep)
        losses.append(float(diffusion_losses(scheduler, said, target, timestep, 5.0).mean()))
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-3)


def test_speed_code_tells_all_speeds_apart():
    """Injective on 0 - 2, also where the training set has hardly a speed."""
    calm = torch.distributions.Exponential(8.0).sample((10_000,))
    for speeds in (calm, torch.rand(1000) * 2, torch.tensor([float("nan")])):
        centres, radii = fit_buckets(speeds.numpy(), 9)
        encoder = SpeedEncoder(centres=centres, radii=radii, margin=2, width=8)
        code = encoder.code(torch.linspace(0, 2, 201))
        assert (code.diff(dim=0).abs().max(dim=1).values > 1e-3).all()
