"""What the full-size model costs, counted; and the stop-watch, on a small one."""

import json

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from emo_core.bench.model import count_generation, count_minimum, count_model, time_clip, time_model
from emo_core.bench.subject import Step, on_device, on_meta
from emo_core.inference.sampling import Sampling
from emo_core.measure.clock import device_name
from emo_core.measure.count import count_bytes, count_flops
from emo_core.model import config as presets
from emo_core.model.config import sd15
from flows import cli

CPU = torch.device("cpu")


@pytest.fixture
def small(config):
    """Widths that every part of the bench can be made of."""
    return config.model_copy(update={"size": 64, "latent_channels": 4, "prediction": "epsilon"})


@pytest.mark.parametrize("scales", [(1, 1), (2, 2), (2, 3)])
def test_nothing_is_computed_twice(scales):
    """Three clips of the full-size model, with so few steps that whatever is repeated besides them would be seen."""
    sampling = Sampling(2, *scales)
    assert 1 <= count_generation(sd15(), sampling, 3) / count_minimum(sd15(), sampling, 3) <= 1.0001


def test_the_model_costs_what_its_design_says():
    """TFLOP of Stable Diffusion 1.5 with AnimateDiff, and memory: 10 GB without any saving, 6 GB with offloading."""
    counted = count_model(sd15())
    assert counted.step_tflop == pytest.approx(counted.baseline_step_tflop, rel=0.01)
    assert counted.reference_tflop == pytest.approx(0.77, abs=0.01)
    assert counted.decode_tflop == pytest.approx(2.51, abs=0.01)
    assert 1290 < counted.clip_tflop < 1300
    assert counted.reference_mib == pytest.approx(22.03, abs=0.01)
    gigabyte = 1e9 / 2**20
    assert counted.counted_peak_offloaded_mib < 6 * gigabyte
    assert counted.counted_peak_offloaded_mib < counted.counted_peak_sliced_mib < counted.counted_peak_mib
    assert counted.counted_peak_mib < 10 * gigabyte
    assert counted.weights_mib < counted.counted_peak_sliced_mib


def test_baseline_and_step_do_the_same_work_at_any_size(small):
    step = Step(on_meta(small))
    step.prepare_baseline()
    assert count_flops(step.ours) == pytest.approx(count_flops(step.baseline), rel=0.05)


def test_bytes_are_those_held_at_a_time():
    """Made, kept, let go; views and results in place are nothing new; attention keeps no scores."""
    given = torch.empty(1000, device="meta")

    def work():
        one = given + 1
        two = one * 2
        del one
        two.add_(1)
        three = two.view(10, 100).T + 1
        del two
        return three.reshape(-1)

    assert count_bytes(work) == 2 * given.nbytes
    query = torch.empty(1, 2, 64, 8, device="meta")
    assert count_bytes(lambda: scaled_dot_product_attention(query, query, query)) == query.nbytes
    assert count_flops(lambda: scaled_dot_product_attention(query, query, query)) == 2 * 2 * 2 * 64 * 64 * 8


def test_a_step_is_timed_next_to_its_baseline(small):
    seen = []
    timed = time_model(small, CPU, rounds=2, compiled=False, on_progress=lambda *done: seen.append(done))
    assert timed.step_over_baseline > 0
    assert timed.seconds_per_step > 0 < timed.baseline_seconds_per_step
    assert timed.step_over_floor > 1
    assert timed.size == 64
    assert (timed.device, timed.dtype, timed.paper_clip_seconds) == (device_name(CPU), "float32", None)
    assert seen == [(n, 5) for n in (1, 2, 3, 4, 5)]


def test_a_whole_clip_is_timed(small):
    assert time_clip(on_device(small, CPU, torch.float32), Sampling(2), CPU) > 0


def test_the_command_says_every_figure(small, monkeypatch, capsys):
    monkeypatch.setattr(presets, "sd15", lambda: small)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # it would stay so for other tests
    assert cli.run(["bench", "model", "--device", "cpu", "--size", "128", "--rounds", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"step_over_baseline", "flops_over_minimum", "seconds_per_step", "peak_mib"} <= found.keys()
    assert (found["size"], found["counted_size"]) == (128, 64)
    assert cli.run(["bench", "model", "--size", "200"]) == 2
    assert "--size 200" in capsys.readouterr().err
