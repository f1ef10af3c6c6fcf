"""The full-size model in real memory, in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

GIB = 2**30
NEEDED = 16 * GIB

SCRIPT = """
import ctypes, gc, json, resource, torch
from emo_core.model.backbone import Conditions
from emo_core.model.config import sd15
from emo_core.model.emo import build, stack_motion

def now():
    with open("/proc/self/statm") as table:
        return int(table.read().split()[1]) * resource.getpagesize()

before = now()
config = sd15().model_copy(update={"size": 256, "frames": 4})
buckets = [n / 4 for n in range(9)], [0.25] * 9
with torch.no_grad():
    model = build(config, 3, buckets).eval().channels_last()
    latents = torch.randn(1, 4, *config.latent_shape)
    seen = model.reference_net(latents[:, 0])
    conditions = Conditions(
        model.backbone.project_reference(seen.attention),
        model.hear(torch.randn(1, 4, 5, 12, 768)),
        stack_motion(model.reference_net(latents[0]).maps, 1),
        model.pace(torch.rand(1, 4, 5)),
        model.face_locator(torch.ones(1, 1, 256, 256)),
    )
    predicted = model.backbone(latents, torch.tensor([500]), conditions)
finite, shape = bool(predicted.isfinite().all()), list(predicted.shape)
parameters = sum(p.numel() for p in model.parameters())
del model, seen, conditions, predicted
gc.collect()
if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
    libc.malloc_trim(0)  # what is free, but kept by the C library for the next to ask
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"finite": finite, "shape": shape, "parameters": parameters, "peak": peak, "left": now() - before}))
"""


def available() -> int:
    """Bytes that a new process can have: what is free, or would be if it were asked for; 0 where nobody says."""
    table = Path("/proc/meminfo")
    rows = dict(line.split(":") for line in table.read_text().splitlines()) if table.exists() else {}
    limit = Path("/sys/fs/cgroup/memory.max")
    most = limit.read_text().strip() if limit.exists() else "max"
    free = int(rows.get("MemAvailable", "0 kB").split()[0]) * 1024
    return free if most == "max" else min(free, int(most))


@pytest.mark.skipif(available() < NEEDED, reason="needs Linux with 16 GiB of memory to spare")
def test_it_is_built_takes_a_step_and_frees_its_memory():
    """2.3 billion float32 weights with random values; 256 x 256 pixels, 4 frames."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(found)
    assert found["finite"]
    assert found["shape"] == [1, 4, 4, 32, 32]
    assert found["peak"] < NEEDED
    assert found["left"] < 1 * GIB < 4 * found["parameters"]
