"""The memory of a worker stays what it is, however many chunks pass through it."""

import numpy as np
import psutil

from emo_data.ingest.config import IngestConfig
from emo_data.ingest.on_ray import ray_crew
from emo_data.ingest.run import ingest
from tests.emo_data.conftest import telling

CHUNKS = 200


def test_an_actor_after_200_chunks(clips, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(CHUNKS):
        data = clips[number % 4].read_bytes() + (9).to_bytes(4, "big") + b"free" + bytes([number])
        (folder / f"{number:03d}.mp4").write_bytes(data)
    held = {"actor": [], "child": []}

    class Watching(list):
        def append(self, told):
            if told[0] == "ingest" and told[1]:
                for process in psutil.process_iter(["cmdline", "memory_info"]):
                    words = " ".join(process.info["cmdline"] or [])
                    if "_IngestActor" in words:
                        held["actor"].append(process.info["memory_info"].rss / 2**20)
                    if "emo_data.ingest.child" in words:
                        held["child"].append(process.info["memory_info"].rss / 2**20)

    config = IngestConfig(size=256, audio_model="tiny", test_share=0)
    ingest([str(folder)], str(tmp_path / "data"), config, crew=ray_crew(1), phase=telling(Watching()))
    for name, values in held.items():
        early, late = np.median(values[20:60]), np.median(values[-40:])
        print(f"{name}: {early:.0f} MiB around chunk 40, {late:.0f} MiB at the end, at most {max(values):.0f} MiB")
    assert len(held["actor"]) >= CHUNKS - 5
    assert abs(np.median(held["actor"][-40:]) / np.median(held["actor"][20:60]) - 1) <= 0.1
