"""Ingestion in one process: find the sources, skip what is done, write each source's rows, then its commit record."""

import glob
import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel

from emo_data.errors import UserError
from emo_data.features.audio import AudioEncoder
from emo_data.ingest.accept import Verdict
from emo_data.ingest.clip import ClipRow
from emo_data.ingest.config import IngestConfig
from emo_data.ingest.worker import RejectionRow, content_hash, ingest_source, rejection
from emo_data.schema import Reason
from emo_data.store import Commit, Dataset

VIDEO_ENDINGS = frozenset(
    ".3g2 .3gp .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogv .ts .vob .webm .wmv".split()  # noqa: SIM905
)
"""What a folder is searched for; a file that is named itself may have any ending."""


class IngestSummary(BaseModel):
    """What one call did. Rejections are counted by reason."""

    dataset: str
    sources: int
    already_done: int
    duplicates: int
    clips: int
    hours: float
    rejections: dict[str, int]


def ingest(
    sources: list[str],
    out: str,
    config: IngestConfig,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> IngestSummary:
    """Add every clip in the sources to the dataset `out`; safe to call again, it does only what is missing.

    sources: video files, folders (searched through) and globs. on_progress(done, total, what happened) after each
    source. Raises UserError where no source is found or `out` cannot be added to.
    """
    names = find_sources(sources)
    encoder = AudioEncoder.load(config.audio_model, config.audio_layers)
    form = config.model_dump(mode="json") | {"audio_layers": encoder.layers, "audio_extractor": encoder.fingerprint}
    dataset = Dataset.create(out, form)
    done = {commit.key for commit in dataset.commits()}
    first: dict[str, str] = {}
    count: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    hours = 0.0
    for number, name in enumerate(names, start=1):
        key, sha256, unreadable = _key(name, config.fingerprint(encoder.fingerprint))
        if key in first:
            count["duplicates"] += 1
            message = f"{name}: the same content as {first[key]}"
        elif key in done and not unreadable:
            count["already_done"] += 1
            message = f"{name}: already done"
        else:
            rows = [unreadable] if unreadable else list(ingest_source(name, sha256, config, encoder))
            clips = [row for row in rows if isinstance(row, ClipRow)]
            refused = [row for row in rows if isinstance(row, RejectionRow)]
            commit = dataset.write_source(key, name, sha256, clips, refused)
            count["clips"] += len(clips)
            hours += sum(row["frames"] for row in clips) / config.fps / 3600
            reasons.update(row["reason"] for row in refused)
            message = f"{name}: {_told(commit, refused)}"
        first.setdefault(key, name)
        if on_progress:
            on_progress(number, len(names), message)
    return IngestSummary(
        dataset=out,
        sources=len(names),
        already_done=count["already_done"],
        duplicates=count["duplicates"],
        clips=count["clips"],
        hours=hours,
        rejections=dict(sorted(reasons.items())),
    )


def find_sources(sources: list[str]) -> list[str]:
    """Files named, in folders (at any depth, by ending) or matched by globs: sorted, each once. UserError for none."""
    found: set[str] = set()
    for source in sources:
        if "://" in source:
            raise UserError(f"source {source}: only local files and folders can be ingested yet; copy it here first")
        path = Path(source)
        if path.is_dir():
            inside = [file for file in path.rglob("*") if file.suffix.lower() in VIDEO_ENDINGS and not file.is_dir()]
        elif path.exists():
            inside = [path]
        else:
            inside = [Path(match) for match in glob.glob(source, recursive=True) if not Path(match).is_dir()]
        if not inside:
            raise UserError(f"source {source}: no video found there; give files, folders or globs of video files")
        found.update(str(file) for file in inside)
    return sorted(found)


def _key(name: str, form: str) -> tuple[str, str, RejectionRow | None]:
    """(key, sha256, rejection where the file cannot even be read): equal content has an equal key."""
    try:
        sha256 = content_hash(Path(name))
    except OSError as error:
        key = f"unreadable-{hashlib.sha256(name.encode(errors='surrogateescape')).hexdigest()[:16]}"
        return key, "", rejection(name, "", Verdict(Reason.UNREADABLE, str(error)))
    return f"{sha256[:32]}-{form}", sha256, None


def _told(commit: Commit, refused: list[RejectionRow]) -> str:
    clips = commit.clips.rows if commit.clips else 0
    why = ", ".join(sorted({row["reason"] for row in refused}))
    return f"{clips} clip{'' if clips == 1 else 's'}" + (f", rejected: {why}" if why else "")
