"""Videos that are made to be measured: the same faces and voices under several conditions."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import Tensor

from emo_core.inference.generate import Advance, Loaded, Request, generate
from emo_core.inference.pipeline import EMOPipeline, OnStep, Talk
from emo_core.inference.sampling import Sampling
from emo_data.errors import UserError
from emo_data.whole import whole_file

OnProgress = Callable[[int, int, str], None]
"""(videos done, videos in all, the name of the last)."""
_RECORD = "trials.json"
_NEXT = 1000
"""Added to the seed for each clip that is done: more than there are seeds of trials."""


@dataclass(frozen=True)
class Trial:
    """One video to make. name: of its file, without ending. seed: of its noise. speed, region: as `emo generate`."""

    name: str
    portrait: Path
    voice: Path
    seed: int = 0
    speed: str = Request.speed
    region: str = Request.region


def make_videos(
    loaded: Loaded,
    trials: Sequence[Trial],
    sampling: Sampling,
    folder: Path,
    on_progress: OnProgress,
    advance: Advance | None = None,
) -> list[Path]:
    """FOLDER/NAME.mp4 of each trial, in their order. What an earlier call with the same trials has made is kept.

    sampling: but the seed, which is each trial's. advance: another way to denoise a clip, see `generate`. UserError
    where `folder` holds anything but videos of these trials, and for whatever is wrong with portrait or voice.
    """
    _claim(folder, loaded, trials, sampling)
    videos = [folder / f"{trial.name}.mp4" for trial in trials]
    for done, (trial, video) in enumerate(zip(trials, videos, strict=True)):
        if not video.with_suffix(".json").exists():  # which `generate` writes last
            how = Sampling(**{**vars(sampling), "seed": trial.seed})
            request = Request(trial.portrait, trial.voice, video, trial.speed, trial.region, sampling=how)
            generate(loaded, request, advance=advance)
        on_progress(done + 1, len(trials), trial.name)
    return videos


def noise_anew(pipeline: EMOPipeline, *, remembering: bool) -> Advance:
    """Every clip from a noise of its own; the small model's otherwise drifts on, and so joins clips, too.

    remembering: whether a clip is told the last frames, or begins as a video's first does (EMO 3.2.4).
    """

    def advance(talk: Talk, tell: OnStep) -> Tensor:
        if not remembering:
            talk.last = None  # so its motion maps stay the zeros that they begin as
        own = talk.sampling
        talk.sampling = replace(own, seed=own.seed + _NEXT * talk.done)
        (latents,) = pipeline.advance([talk], tell)
        talk.sampling = own
        return latents

    return advance


def _claim(folder: Path, loaded: Loaded, trials: Sequence[Trial], sampling: Sampling) -> None:
    """Write down what the folder's videos are made from, or find that it is the same as before."""
    told = {
        "model": loaded.fingerprint,
        "sampling": vars(sampling),
        "trials": [
            {name: _content(value) if isinstance(value, Path) else value for name, value in asdict(trial).items()}
            for trial in trials
        ],
    }
    form = json.dumps(told, indent=1)
    record = folder / _RECORD
    if record.exists():
        if record.read_text() != form:
            raise UserError(f"{folder}: holds videos of another model or of other settings; name a new or empty folder")
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: holds something other than videos of such a trial; name a new or empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(record) as unfinished:
        unfinished.write_text(form)


def _content(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
