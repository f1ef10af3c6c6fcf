"""One network at a time where it is computed, the others away."""

import accelerate
import numpy as np
import torch
from accelerate.hooks import ModelHook, add_hook_to_module

from emo_core.inference.pipeline import EMOPipeline
from emo_core.inference.sampling import Sampling
from tests.emo_core.conftest import drive, portrait


class Away(ModelHook):
    """accelerate's offloading for a machine without an accelerator: what is away is on the meta device, where nothing
    can be computed with values that are not."""

    present: set["Away"]
    execution_device = torch.device("cpu")

    def __init__(self, model, before, present, record):
        self.model, self.before, self.present, self.record = model, before, present, record
        self.weights = {name: value.clone() for name, value in model.state_dict().items()}
        add_hook_to_module(model, self)
        model.to("meta")

    def pre_forward(self, module, *args, **kwargs):
        if self.before is not None:
            self.before.offload()
        if self not in self.present:
            self.model.load_state_dict(self.weights, assign=True)
            self.present.add(self)
        self.record.append({type(hook.model).__name__ for hook in self.present})
        return args, kwargs

    def offload(self):
        self.present.discard(self)
        self.model.to("meta")

    def detach_hook(self, module):
        self.present.discard(self)
        module.load_state_dict(self.weights, assign=True)
        return module


def test_the_hooks_of_accelerate_itself_find_what_they_need(checkpoint, config, one_lane, monkeypatch):
    """On a CPU there is nowhere to go, but everything that leads there is done: weights are put in place again at each
    call, which two lanes at a time would not survive."""
    pipeline = EMOPipeline.of(checkpoint)
    request = portrait(config), drive(config, 7), Sampling(steps=2)
    # In one batch, too: on some processors a sample alone is rounded otherwise than among others.
    expected = pipeline(*request)
    monkeypatch.setattr("emo_core.inference.pipeline.side_by_side", lambda device: 2)
    pipeline.enable_model_cpu_offload(device="cpu")
    for _ in range(20):
        assert np.array_equal(pipeline(*request), expected)


def test_weights_come_and_go_and_the_video_is_the_same(checkpoint, config, one_lane, monkeypatch):
    pipeline = EMOPipeline.of(checkpoint)
    request = portrait(config), drive(config, 7), Sampling(steps=2)
    expected = pipeline(*request)
    present, record = set(), []

    def offload(model, device, prev_module_hook=None):
        hook = Away(model, prev_module_hook, present, record)
        return model, hook

    monkeypatch.setattr(accelerate, "cpu_offload_with_hook", offload)
    pipeline.enable_model_cpu_offload(device="cpu")
    for _ in range(2):
        record.clear()
        assert np.array_equal(pipeline(*request), expected)
        assert not present
        # ReferenceNet is there beside the Backbone once, when the portrait's keys and values are projected.
        assert sum({"Backbone", "ReferenceNet"} <= names for names in record) == 1
        assert sum("Backbone" in names for names in record) > pipeline.total_steps(7, request[2])
        assert "Backbone" not in record[-1]
