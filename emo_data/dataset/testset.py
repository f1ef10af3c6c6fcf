"""A dataset's held-out people as files to generate from and to compare with: the paper's test sets (EMO 4.2).

HDTF: ingested with 10 % of the identities held out, all clips of the test split. Internet clips: of the test split
1,000 of 4 s, drawn by a seed among those that thresholds take for expressive.
"""

import csv
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from emo_data.dataset.index import ClipIndex
from emo_data.errors import UserError
from emo_data.film import encode_video
from emo_data.schema import SAMPLE_RATE, Split
from emo_data.sound import write_sound

MANIFEST, BATCH = "manifest.csv", "batch.csv"
_FOLDERS = ("truth", "portrait", "audio")


def write_testset(
    url: str,
    out: Path,
    clips: int | None,
    seconds: float | None,
    seed: int,
    keep: Sequence[str],
    on_progress: Callable[[int, int, str], None],
) -> int:
    """Fill a new folder: truth/NAME.mp4, portrait/NAME.png, audio/NAME.wav, manifest.csv for `emo evaluate --truth` and
    batch.csv for `emo batch`. Returns how many clips.

    clips: how many are drawn; None: all. seconds: of each, from a place that is drawn; None: whole clips. keep: see
    `Threshold.parse`. Not in the paper: the portrait is the first frame. UserError where too few clips are there.
    """
    if out.exists():
        raise UserError(f"--out {out}: is there already; give a new folder")
    index = ClipIndex(url, Split.TEST, listening=True, keep=keep)
    length = None if seconds is None else round(seconds * index.fps)
    long_enough = np.flatnonzero(index.lengths >= (length or 1))
    if len(long_enough) < (clips or 1):
        raise UserError(
            f"dataset {url}: {len(long_enough)} of its {len(index)} test clips are long enough, {clips or 1} are "
            "wanted; give --clips or --seconds less, or fewer --keep"
        )
    rng = np.random.default_rng(seed)
    drawn = long_enough if clips is None else np.sort(rng.choice(long_enough, clips, replace=False))
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for folder in _FOLDERS:
            (partial / folder).mkdir(parents=True)
        rows = []
        for number, clip in enumerate(drawn):
            on_progress(number, len(drawn), "")
            frames = int(index.lengths[clip])
            start = 0 if length is None else int(rng.integers(frames - length + 1))
            rows.append(_write(index, int(clip), partial, f"{number:04d}", start, length or frames))
        _write_list(partial / MANIFEST, ("name", "truth", "portrait", "identity"), rows)
        _write_list(partial / BATCH, ("name", "portrait", "audio"), rows)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return len(drawn)


def _write(index: ClipIndex, clip: int, folder: Path, name: str, start: int, frames: int) -> dict[str, str]:
    files = {"truth": f"truth/{name}.mp4", "portrait": f"portrait/{name}.png", "audio": f"audio/{name}.wav"}
    pictures = index.pictures(clip)[start : start + frames]
    begin, end = (round(frame / index.fps * SAMPLE_RATE) for frame in (start, start + frames))
    sound = index.sound(clip)[begin:end]
    encode_video(folder / files["truth"], pictures, index.fps, sound, crf=12)
    Image.fromarray(pictures[0]).save(folder / files["portrait"])
    write_sound(folder / files["audio"], sound)
    return {"name": name, "identity": str(index.read(clip, ["identity"])["identity"]), **files}


def _write_list(path: Path, columns: Sequence[str], rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
