"""Who speaks, with whose voice: files that a person names, or faces and voices made in code."""

from collections.abc import Sequence
from pathlib import Path

from emo_data.errors import UserError
from emo_data.synthetic.cast import write_cast, write_song
from emo_data.synthetic.look import looks_of

LOOKS, VOICES, SECONDS = 5, 5, 4.0
"""Of the cast that is made in code."""
SONG_SECONDS = 60.0
PICTURES = frozenset({".avif", ".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
SOUNDS = frozenset({".aac", ".flac", ".m4a", ".mp3", ".mp4", ".ogg", ".opus", ".wav", ".webm"})


def cast_of(
    portraits: Sequence[Path] | None, voices: Sequence[Path] | None, folder: Path
) -> tuple[list[Path], list[Path]]:
    """Files, and those that lie in the folders among them, by name. What is None is made in code, in `folder`.

    UserError for what is not there, and for a folder without any.
    """
    found_portraits = _files("--portrait", portraits, PICTURES)
    found_voices = _files("--audio", voices, SOUNDS)
    if not found_portraits or not found_voices:
        made_portraits, made_voices = write_cast(
            folder, looks_of(0 if found_portraits else LOOKS), 0 if found_voices else VOICES, SECONDS
        )
        return found_portraits or made_portraits, found_voices or made_voices
    return found_portraits, found_voices


def song_of(song: Path | None, folder: Path) -> Path:
    """The file, or a minute's singing made in code, in `folder`. UserError for what is not there."""
    if song is not None:
        return _files("--song", [song], SOUNDS)[0]
    made = folder / "song.wav"
    if not made.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_song(made, SONG_SECONDS)
    return made


def _files(option: str, paths: Sequence[Path] | None, endings: frozenset[str]) -> list[Path]:
    found = list[Path]()
    for path in paths or ():
        if path.is_dir():
            inside = sorted(one for one in path.iterdir() if one.suffix.lower() in endings and one.is_file())
            if not inside:
                raise UserError(f"{option} {path}: this folder holds none of {', '.join(sorted(endings))}")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise UserError(f"{option} {path}: there is no such file or folder")
    return found
