"""The model's cost: counted at full size without a device, and timed on a device against the same work done bare."""

import statistics
from collections.abc import Callable

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from emo_core.bench.subject import FAST, PAPER, Step, a_talk, on_device, on_meta, parts
from emo_core.inference.pipeline import EMOPipeline, Talk
from emo_core.inference.sampling import Sampling
from emo_core.measure.clock import device_name, forget_peak, matmul_rate, peak_bytes, seconds
from emo_core.measure.count import count_bytes, count_flops, weight_bytes
from emo_core.model.codec import decode_latents, encode_pictures
from emo_core.model.config import ModelConfig

TERA, MIB = 1e12, 2**20
CLIPS = 3
"""Length of the counted generation: a first clip, and two that have motion frames."""
BRIEF = Sampling(steps=2, reference_scale=2, audio_scale=2)
"""Two branches, and few steps: whatever is done twice besides them weighs the more."""


class Counted(BaseModel):
    """What the model costs by design: TFLOP, and MiB in bfloat16."""

    model_config = ConfigDict(extra="forbid")

    counted_size: int = Field(description="pixels per side")
    step_tflop: float = Field(description="one denoising step of one clip and branch")
    baseline_step_tflop: float = Field(description="the same by diffusers' UNetMotionModel and bare attentions")
    reference_tflop: float = Field(description="one picture through ReferenceNet")
    decode_tflop: float = Field(description="one frame through the VAE's decoder")
    clip_tflop: float = Field(description="a clip in 40 steps with two branches")
    flops_over_minimum: float = Field(
        description="three such clips, with few steps, over everything they need done once"
    )
    reference_mib: float = Field(description="features of one picture")
    weights_mib: float
    counted_peak_mib: float = Field(description="the weights, and the most that such a clip holds besides")
    counted_peak_sliced_mib: float = Field(description="the same with the VAE decoding frame by frame")
    counted_peak_offloaded_mib: float = Field(description="and with only the largest network on the device")


class Timed(BaseModel):
    """What it costs on a device."""

    model_config = ConfigDict(extra="forbid")

    device: str
    torch: str
    dtype: str
    compiled: bool
    size: int = Field(description="pixels per side")
    seconds_per_step: float
    baseline_seconds_per_step: float
    step_over_baseline: float = Field(description="median of the rounds; in each, one is timed next to the other")
    matmul_tflops: float = Field(description="TFLOP/s of a large matrix product in the same run")
    step_over_floor: float = Field(description="over the time that its operations would take at that rate")
    peak_mib: float = Field(description="of the device; on a CPU, of the process")
    paper_clip_seconds: float | None = Field(description="12 frames in 40 steps, two branches, decoded")
    paper_clip_utilisation: float | None = Field(description="operations of that clip over what the device can do")
    fast_clip_seconds: float | None = Field(description="12 frames in 8 steps, one branch, decoded")


def count_generation(config: ModelConfig, sampling: Sampling, clips: int) -> int:
    """Operations of a generation as the pipeline does it."""
    pipeline = on_meta(config)
    return count_flops(lambda: _generate(pipeline, clips, sampling))


@torch.no_grad()
def count_minimum(config: ModelConfig, sampling: Sampling, clips: int) -> int:
    """Operations of everything that a generation needs, done once."""
    pipeline = on_meta(config)
    model, vae = pipeline.checkpoint.model, pipeline.vae
    portrait, _ = a_talk(config, clips)
    step = Step(pipeline)
    one, before = step.latents[:, 0], step.latents[0, : config.motion_frames]
    features = model.reference_net(one).attention
    speed = torch.empty(1, config.frames, 2 * config.audio_margin + 1, device="meta")
    sound = speed[..., None, None].expand(-1, -1, -1, config.audio_layers, config.audio_width)
    return (
        count_flops(lambda: encode_pictures(vae, portrait.picture[None].to("meta")))
        + count_flops(lambda: model.reference_net(one))
        + count_flops(lambda: model.backbone.project_reference(features))
        + count_flops(lambda: model.face_locator(portrait.mask[None].to("meta")))
        + clips * count_flops(lambda: model.hear(sound))
        + clips * count_flops(lambda: model.pace(speed))
        + (clips - 1) * count_flops(lambda: model.reference_net(before))
        + clips * sampling.steps * len(sampling.branches) * count_flops(step.ours)
        + clips * count_flops(lambda: decode_latents(vae, step.latents[0]))
    )


@torch.no_grad()
def count_model(config: ModelConfig) -> Counted:
    """The model's cost at its own size, counted in seconds on any machine."""
    pipeline = on_meta(config, torch.bfloat16)
    model, vae = pipeline.checkpoint.model, pipeline.vae
    step = Step(pipeline)
    step.prepare_baseline()
    picture = step.latents[:, 0]
    with torch.no_grad():
        features = model.reference_net(picture).attention
    weights = [weight_bytes(part) for part in parts(pipeline)]
    most = count_bytes(lambda: _generate(pipeline, 1, BRIEF))
    vae.enable_slicing()
    sliced = count_bytes(lambda: _generate(pipeline, 1, BRIEF))
    return Counted(
        counted_size=config.size,
        step_tflop=count_flops(step.ours) / TERA,
        baseline_step_tflop=count_flops(step.baseline) / TERA,
        reference_tflop=count_flops(lambda: model.reference_net(picture)) / TERA,
        decode_tflop=count_flops(lambda: decode_latents(vae, picture)) / TERA,
        clip_tflop=count_minimum(config, PAPER, CLIPS) / CLIPS / TERA,
        flops_over_minimum=count_generation(config, BRIEF, CLIPS) / count_minimum(config, BRIEF, CLIPS),
        reference_mib=sum(value.nbytes for value in features.values()) / MIB,
        weights_mib=sum(weights) / MIB,
        counted_peak_mib=(sum(weights) + most) / MIB,
        counted_peak_sliced_mib=(sum(weights) + sliced) / MIB,
        counted_peak_offloaded_mib=(max(weights) + sliced) / MIB,
    )


def time_model(
    config: ModelConfig,
    device: torch.device,
    *,
    rounds: int,
    compiled: bool,
    on_progress: Callable[[int, int], None],
) -> Timed:
    """One denoising step next to its baseline, round by round; on an accelerator whole clips, too.

    compiled: let torch.compile make both faster first.
    """
    dtype, clips = (torch.float32, False) if device.type == "cpu" else (torch.bfloat16, True)
    pipeline = on_device(config, device, dtype)
    forget_peak(device)
    if compiled:
        pipeline.backbone.compile(fullgraph=True, dynamic=False)
    on_progress(1, rounds + 3)
    paper, fast = (time_clip(pipeline, sampling, device) for sampling in (PAPER, FAST)) if clips else (None, None)
    step = Step(pipeline)
    del pipeline  # the memory of ReferenceNet goes to the baseline
    step.ours()
    peak = peak_bytes(device)
    step.prepare_baseline()
    if compiled:
        step.unet.compile(dynamic=False)
        step.bare.compile(dynamic=False)
    lay_out_best(step)
    on_progress(2, rounds + 3)
    pairs = []
    for done in range(rounds):
        # Next to each other, and in turns the other way round: a machine that slows down slows both down.
        first, second = (step.ours, step.baseline) if done % 2 else (step.baseline, step.ours)
        times = {first: seconds(first, device), second: seconds(second, device)}
        pairs.append((times[step.ours], times[step.baseline]))
        on_progress(done + 3, rounds + 3)
    rate = matmul_rate(device, dtype)
    ours = statistics.median(ours for ours, _ in pairs)
    result = Timed(
        device=device_name(device),
        torch=torch.__version__,
        dtype=str(dtype).removeprefix("torch."),
        compiled=compiled,
        size=config.size,
        seconds_per_step=ours,
        baseline_seconds_per_step=statistics.median(baseline for _, baseline in pairs),
        step_over_baseline=statistics.median(ours / baseline for ours, baseline in pairs),
        matmul_tflops=rate / TERA,
        step_over_floor=ours * rate / count_flops(Step(on_meta(config)).ours),
        peak_mib=peak / MIB,
        paper_clip_seconds=paper,
        paper_clip_utilisation=paper and _third_clip(config) / rate / paper,
        fast_clip_seconds=fast,
    )
    on_progress(rounds + 3, rounds + 3)
    return result


def lay_out_best(step: Step) -> None:
    """Lay the baseline's convolutions out in memory as they are faster here; both ways are tried, and warmed up."""
    times = {}
    for layout in (torch.channels_last, torch.contiguous_format):
        step.unet.to(memory_format=layout)
        step.baseline()
        times[layout] = seconds(step.baseline, step.device)
    step.unet.to(memory_format=min(times, key=lambda layout: times[layout]))


def time_clip(pipeline: EMOPipeline, sampling: Sampling, device: torch.device) -> float:
    """Of the third clip of a video, decoded; the second, its like, has warmed everything up."""
    talk = pipeline.begin(*a_talk(pipeline.checkpoint.card.config, 3), sampling)
    _next_clip(pipeline, talk)
    _next_clip(pipeline, talk)
    return seconds(lambda: _next_clip(pipeline, talk).cpu(), device)


def _next_clip(pipeline: EMOPipeline, talk: Talk) -> Tensor:
    (latents,) = pipeline.advance([talk])
    return pipeline.show(talk, talk.done - 1, latents)


def _third_clip(config: ModelConfig) -> int:
    return count_minimum(config, PAPER, 3) - count_minimum(config, PAPER, 2)


def _generate(pipeline: EMOPipeline, clips: int, sampling: Sampling) -> None:
    talk = pipeline.begin(*a_talk(pipeline.checkpoint.card.config, clips), sampling)
    while talk.done < talk.clips:
        _next_clip(pipeline, talk)
