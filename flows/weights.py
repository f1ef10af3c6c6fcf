"""The public weights that training starts from: what is there, what is missing, from where it comes (EMO 4.1)."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from emo_data.errors import UserError
from emo_data.whole import whole_file

RECORD = "weights.json"
"""Beside the parts: what each file is, and what it came from."""


class Part(NamedTuple):
    """One model that others trained and published."""

    name: str
    """Its folder in --weights, as `emo train` and `emo ingest` look for it."""
    what: str
    repository: str
    folder: str
    """Where the files lie in the repository."""
    files: tuple[str, ...]
    licence: str
    megabytes: int
    """About, of all its files."""


_SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
_DIFFUSERS = ("config.json", "diffusion_pytorch_model.safetensors")
PARTS = (
    Part("unet", "Stable Diffusion 1.5", _SD15, "unet/", _DIFFUSERS, "CreativeML Open RAIL-M", 3438),
    Part("vae", "its latent codec", _SD15, "vae/", _DIFFUSERS, "CreativeML Open RAIL-M", 335),
    Part("motion", "AnimateDiff v2", "guoyww/animatediff-motion-adapter-v1-5-2", "", _DIFFUSERS, "Apache-2.0", 1813),
    Part(
        *("wav2vec2", "the voice's features", "facebook/wav2vec2-base-960h", ""),
        *(("config.json", "preprocessor_config.json", "model.safetensors"), "Apache-2.0", 378),
    ),
)


class FileRecord(BaseModel):
    """A file as it was fetched."""

    model_config = ConfigDict(extra="forbid")

    repository: str
    commit: str
    sha256: str
    size: int


def check(folder: Path) -> list[dict[str, Any]]:
    """One entry for each part: name, what, state, from, licence, megabytes.

    state: "ready" (every file is what was fetched), "unverified" (all there, put there by hand), "missing" or
    "damaged", with the files in question as `files`.
    """
    record = _read_record(folder)
    return [_state(folder, part, record) for part in PARTS]


def fetch(folder: Path, names: list[str], on_progress: Callable[[int, int, str], None]) -> None:
    """Fetch the named parts from the hub, or the rest of what an earlier call began.

    The hub is HF_ENDPOINT's, or huggingface.co. on_progress(bytes done, bytes in all, file). Raises UserError where a
    name is unknown, the hub does not answer or its file is not what it says; what is whole by then stays.
    """
    known = {part.name: part for part in PARTS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"--part {unknown[0]}: choose from {', '.join(known)}")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; name a folder for the weights")
    chosen = [part for part in PARTS if not names or part.name in names]
    total = sum(part.megabytes for part in chosen) * 1_000_000
    done = 0
    for part in chosen:
        for file in part.files:

            def report(size: int, file: str = f"{part.name}/{file}", before: int = done) -> None:
                on_progress(min(before + size, total), total, file)

            done += _fetch_file(folder, part, file, report)
    on_progress(total, total, "")


def _fetch_file(folder: Path, part: Part, file: str, report: Callable[[int], None]) -> int:
    """Fetch one file unless it is there, check it, write it down; return its size."""
    from httpx2 import HTTPError
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import OfflineModeIsEnabled
    from huggingface_hub.file_download import http_get

    path = folder / part.name / file
    url = hf_hub_url(part.repository, f"{part.folder}{file}")
    try:
        offered = get_hf_file_metadata(url)
        commit, etag, size = offered.commit_hash, offered.etag, offered.size
        if commit is None or etag is None or size is None:
            raise UserError(f"{url}: the hub does not say which file this is; is HF_ENDPOINT a hub?")
        hashes = _hashes(path) if path.is_file() else None
        if hashes is None or etag not in hashes:
            # The hub's own client begins a file anew after each interruption: so what has come is kept here.
            unfinished = path.with_name(f".{file}.{etag[:16]}.part")
            unfinished.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("ab") as stream:
                http_get(
                    *(offered.location, stream),
                    resume_size=stream.tell(),
                    expected_size=size,
                    tqdm_class=_bar_for(report),
                )
            hashes = _hashes(unfinished)
            if etag not in hashes:
                unfinished.unlink()
                raise UserError(f"{path}: came damaged, its checksum is not {etag[:16]}…; fetch it again")
            unfinished.replace(path)
    except (OfflineModeIsEnabled, HTTPError, OSError) as error:
        first = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{part.name}: {url} cannot be fetched: {first} Try again, what has come stays; or copy {part.repository} "
            f"into {path.parent} on a machine that has it"
        ) from error
    record = _read_record(folder)
    record[f"{part.name}/{file}"] = FileRecord(repository=part.repository, commit=commit, sha256=hashes[0], size=size)
    _write_record(folder, record)
    return size


def _bar_for(report: Callable[[int], None]) -> Any:
    """A tqdm that draws nothing and reports instead: what the hub's client takes as a bar."""
    from tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*arguments, **{**options, "disable": True})
            self.n = options.get("initial", 0)

        def update(self, n: float | None = 1) -> bool | None:
            self.n += n or 0
            report(int(self.n))
            return None

    return Bar


def _state(folder: Path, part: Part, record: dict[str, FileRecord]) -> dict[str, Any]:
    state, files = "ready", []
    missing = [file for file in part.files if not (folder / part.name / file).is_file()]
    if missing:
        state, files = "missing", missing
    else:
        wrong = [file for file in part.files if _damaged(folder / part.name / file, record.get(f"{part.name}/{file}"))]
        if wrong:
            state, files = "damaged", wrong
        elif any(f"{part.name}/{file}" not in record for file in part.files):
            state = "unverified"
    return {
        "name": part.name,
        "what": part.what,
        "state": state,
        "files": files,
        "from": part.repository,
        "licence": part.licence,
        "megabytes": part.megabytes,
    }


def _damaged(path: Path, fetched: FileRecord | None) -> bool:
    if fetched is None:
        return False
    return path.stat().st_size != fetched.size or _hashes(path)[0] != fetched.sha256


def _hashes(path: Path) -> tuple[str, str]:
    """sha256, by which the hub names large files, and git's sha1 of a blob, by which it names small ones."""
    sha256, blob = hashlib.sha256(), hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    for block in _blocks(path):
        sha256.update(block)
        blob.update(block)
    return sha256.hexdigest(), blob.hexdigest()


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            yield block


def _read_record(folder: Path) -> dict[str, FileRecord]:
    path = folder / RECORD
    if not path.exists():
        return {}
    try:
        return {name: FileRecord.model_validate(entry) for name, entry in json.loads(path.read_text()).items()}
    except (ValueError, AttributeError, ValidationError) as error:
        raise UserError(f"{path}: is damaged; remove it and fetch again, what is there is kept") from error


def _write_record(folder: Path, record: dict[str, FileRecord]) -> None:
    with whole_file(folder / RECORD) as unfinished:
        unfinished.write_text(json.dumps({name: entry.model_dump() for name, entry in record.items()}, indent=1))
