"""What a dataset holds, in numbers."""

from collections import Counter
from typing import Any

import numpy as np

from emo_core.training.prepare import speed_buckets
from emo_data.dataset.index import ClipIndex
from emo_data.schema import Split
from emo_data.store import Dataset

SPEED_EDGES = [0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0]
"""Degrees per frame; faster ones count to the last bin."""


def describe(url: str) -> dict[str, Any]:
    """Keys: sources, clips, hours, identities, splits (clips and identities), sound and rejections (counts), speeds
    (degrees per frame: edges of the bins, frames in each), config."""
    dataset = Dataset.open(url)
    _, table = dataset.clips(["identity", "split", "sound_state", "frames", "fps"])
    rows = table.to_pylist()
    speeds = np.zeros(len(SPEED_EDGES) - 1, dtype=int)
    for part in dataset.tables(["speed"]):
        values = part.column("speed").combine_chunks().flatten().to_numpy(zero_copy_only=False)
        speeds += np.histogram(values[np.isfinite(values)].clip(0, SPEED_EDGES[-1]), SPEED_EDGES)[0]
    return {
        "dataset": url,
        "sources": len(dataset.commits()),
        "clips": len(rows),
        "hours": sum(row["frames"] / row["fps"] for row in rows) / 3600,
        "identities": len({row["identity"] for row in rows}),
        "splits": {str(split): _side([row for row in rows if row["split"] == split]) for split in Split},
        "sound": dict(sorted(Counter(row["sound_state"] for row in rows).items())),
        "rejections": dict(sorted(Counter(dataset.rejections(["reason"])["reason"].to_pylist()).items())),
        "speeds": {"edges": SPEED_EDGES, "frames": speeds.tolist()},
        "config": dataset.config,
    }


def _side(rows: list[dict[str, Any]]) -> dict[str, int]:
    return {"clips": len(rows), "identities": len({row["identity"] for row in rows})}


def fitted_buckets(url: str, buckets: int) -> tuple[list[float], list[float]]:
    """Centres and radii in degrees per frame, from the clips that stage 3 would learn from."""
    return speed_buckets(ClipIndex(url, Split.TRAIN, listening=True), buckets)
