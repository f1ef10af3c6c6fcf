"""What there is of a video that is being made: enough to go on with it after whatever ended the process.

    settings.json            what the video is made from and how; another video does not go on here
    segment-00000.mp4 …      the picture of so many clips each, encoded
    clips.safetensors        latents of the clips that are in no segment yet, and of the last one
    work/                    whose it is, see `emo_data.lease`

Each segment is encoded on its own, so a video that was interrupted is, byte for byte, the one that was not.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
from safetensors.torch import load_file, save_file
from torch import Tensor

from emo_data.errors import UserError
from emo_data.film import Premiere, video_encoder
from emo_data.lease import leased
from emo_data.objects import Folder
from emo_data.whole import whole_file

SEGMENT_SECONDS = 10
"""At least one clip. Every segment begins with a key frame, which is a small jump: they are to be rare."""
_SETTINGS, _CLIPS = "settings.json", "clips.safetensors"


class BegunOtherwise(UserError):
    """What there is belongs to another video, or to another version of what makes it."""


class Unfinished:
    """A folder; see above. settings: JSON. clips: of the whole video, each of so many frames.

    Inside its `with` block clips are added, one after the other; what the block fails with leaves a segment that is not
    whole out. premiere: whoever is to see the picture while it is made. Raises BegunOtherwise where the folder is
    another video's.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        clips: int,
        clip_frames: int,
        fps: float,
        premiere: Premiere | None = None,
    ) -> None:
        self._folder, self._clips, self._fps, self._premiere = folder, clips, fps, premiere
        self._clips_each = max(1, round(SEGMENT_SECONDS * fps / clip_frames))
        self._frames_each = self._clips_each * clip_frames
        self._claim(settings)
        self.segments = _contiguous(folder)
        self._latents = self._kept()
        self._segment = ExitStack()

    def __enter__(self) -> Self:
        if self._premiere is not None:
            for number, segment in enumerate(self.segments):
                self._premiere.repeat(segment, number * self._frames_each)
        return self

    def __exit__(self, *why: Any) -> None:
        self._segment.__exit__(*why)

    @property
    def done(self) -> int:
        """Clips that need not be denoised again."""
        return max(self._latents, default=-1) + 1

    @property
    def last(self) -> Tensor | None:
        """Latents (f, C, H, W) of the last of them."""
        return self._latents.get(self.done - 1)

    def waiting(self) -> list[Tensor]:
        """Latents of the clips that are done and in no segment yet."""
        return [self._latents[clip] for clip in range(self._encoded, self.done)]

    def add(self, clip: int, latents: Tensor, frames: Iterable[np.ndarray]) -> None:
        """Clip number `clip`, the first that is in no segment yet. frames: uint8 (H, W, 3), as they are seen."""
        self._keep(clip, latents)
        if clip % self._clips_each == 0:
            path = self._segment.enter_context(whole_file(_segment(self._folder, len(self.segments))))
            watcher = None
            if self._premiere is not None:
                watcher = partial(self._premiere.show, before=len(self.segments) * self._frames_each)
            encoder = video_encoder(path, self._fps, crf=12, key_frame_seconds=2 * SEGMENT_SECONDS, watcher=watcher)
            self._show = self._segment.enter_context(encoder)
        for frame in frames:
            self._show(frame)
        if (clip + 1) % self._clips_each == 0 or clip + 1 == self._clips:
            self._segment.close()
            self.segments.append(_segment(self._folder, len(self.segments)))

    @property
    def _encoded(self) -> int:
        return len(self.segments) * self._clips_each

    def _keep(self, clip: int, latents: Tensor) -> None:
        if clip in self._latents:
            return
        self._latents = {number: kept for number, kept in self._latents.items() if number >= self._encoded}
        self._latents[clip] = latents.cpu().contiguous()
        with whole_file(self._folder / _CLIPS) as path:
            save_file({str(number): kept for number, kept in self._latents.items()}, path)

    def _claim(self, settings: dict[str, Any]) -> None:
        told = self._folder / _SETTINGS
        if not told.exists():
            with whole_file(told) as path:
                path.write_text(json.dumps(settings, indent=1))
            return
        began, settings = json.loads(told.read_text()), json.loads(json.dumps(settings))
        other = sorted(name for name in began.keys() | settings.keys() if began.get(name) != settings.get(name))
        if other:
            raise BegunOtherwise(
                f"--resume: {self._folder} was begun with another {', '.join(other)}; give the same again, or delete it"
            )

    def _kept(self) -> dict[int, Tensor]:
        path = self._folder / _CLIPS
        return {int(number): kept for number, kept in load_file(path).items()} if path.exists() else {}


def _segment(folder: Path, number: int) -> Path:
    return folder / f"segment-{number:05d}.mp4"


def _contiguous(folder: Path) -> list[Path]:
    found: list[Path] = []
    while (path := _segment(folder, len(found))).exists():
        found.append(path)
    return found


@contextmanager
def beside(out: Path, *, keep: bool) -> Iterator[Path]:
    """The folder for what there is of `out`; it is gone when the block ends well. keep: stays when it does not, and is
    gone on with where it is there.

    Raises UserError where it holds something else, or another process is at it (Taken).
    """
    if not keep:
        with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
            yield Path(scratch)
        return
    folder = out.with_name(f"{out.name}.unfinished")
    folder.mkdir(exist_ok=True)
    if not (folder / _SETTINGS).exists() and any(path.name != "work" for path in _visible(folder)):
        raise UserError(f"--resume: {folder} holds something else; move it, or choose another --out")
    with leased(Folder(str(folder.absolute())), "emo generate"):
        yield folder
        # What tells whose the rest is goes last: a death in between leaves what can be gone on with.
        for path in sorted(folder.iterdir(), key=lambda path: path.name == _SETTINGS):
            if path.name != "work":
                path.unlink()
    with suppress(OSError):  # somebody else has begun there
        for empty in (folder / "work" / "lease", folder / "work", folder):
            empty.rmdir()


def _visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]
