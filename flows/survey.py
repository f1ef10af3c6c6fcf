"""What a dataset holds, in numbers."""

from collections import Counter
from typing import Any

from emo_core.training.prepare import speed_buckets
from emo_data.dataset.loader import ClipReader
from emo_data.schema import Split
from emo_data.store import Dataset


def describe(url: str) -> dict[str, Any]:
    """Keys: sources, clips, hours, identities, splits (clips and identities), sound and rejections (counts), config."""
    dataset = Dataset.open(url)
    _, table = dataset.clips(["identity", "split", "sound_state", "frames", "fps"])
    rows = table.to_pylist()
    return {
        "dataset": url,
        "sources": len(dataset.commits()),
        "clips": len(rows),
        "hours": sum(row["frames"] / row["fps"] for row in rows) / 3600,
        "identities": len({row["identity"] for row in rows}),
        "splits": {str(split): _side([row for row in rows if row["split"] == split]) for split in Split},
        "sound": dict(sorted(Counter(row["sound_state"] for row in rows).items())),
        "rejections": dict(sorted(Counter(dataset.rejections()["reason"].to_pylist()).items())),
        "config": dataset.config,
    }


def _side(rows: list[dict[str, Any]]) -> dict[str, int]:
    return {"clips": len(rows), "identities": len({row["identity"] for row in rows})}


def fitted_buckets(url: str, buckets: int) -> tuple[list[float], list[float]]:
    """Centres and radii in degrees per frame, from the clips that stage 3 would learn from."""
    return speed_buckets(ClipReader(url, Split.TRAIN, listening=True), buckets)
