"""Portraits and voices without a film: what a model is tried with. No sample's clips hold these voices."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emo_data.sound import write_sound
from emo_data.synthetic.head import Head
from emo_data.synthetic.look import LOOKS, Look
from emo_data.synthetic.voice import synthesise_song, synthesise_voice
from emo_data.whole import whole_file

_TRIAL, _CAST = 2, 3
"""Streams of random numbers; a sample's clips have 0 and 1."""


def write_trial(folder: Path, seconds: float = 8, size: int = 512) -> None:
    """portrait.png and voice.wav to try a model with, each whole or not at all; the folder is made."""
    folder.mkdir(parents=True, exist_ok=True)
    write_trial_of(Head(LOOKS[0], size), folder, 0, seconds)


def write_trial_of(head: Head, folder: Path, seed: int, seconds: float) -> None:
    """As `write_trial`, of a head; the folder is there."""
    with whole_file(folder / "voice.wav") as unfinished:
        write_sound(unfinished, synthesise_voice([seed, _TRIAL, 0], seconds))
    _write_portrait(head, folder / "portrait.png")


def write_cast(
    folder: Path, looks: Sequence[Look], voices: int, seconds: float, seed: int = 0, size: int = 512
) -> tuple[list[Path], list[Path]]:
    """A portrait PNG of each look and so many voices as WAV; the folder is made, and files that are there stay."""
    folder.mkdir(parents=True, exist_ok=True)
    portraits = [folder / f"{look.name}.png" for look in looks]
    for look, path in zip(looks, portraits, strict=True):
        if not path.exists():
            _write_portrait(Head(look, size), path)
    spoken = [folder / f"voice{number}.wav" for number in range(voices)]
    for number, path in enumerate(spoken):
        if not path.exists():
            with whole_file(path) as unfinished:
                write_sound(unfinished, synthesise_voice([seed, _CAST, number], seconds))
    return portraits, spoken


def write_song(path: Path, seconds: float, seed: int = 0) -> None:
    """A sung voice as WAV, whole or not at all."""
    with whole_file(path) as unfinished:
        write_sound(unfinished, synthesise_song([seed, _CAST, 0], seconds))


def _write_portrait(head: Head, path: Path) -> None:
    from PIL import Image

    with whole_file(path) as unfinished:
        Image.fromarray(head.render(np.zeros(3), opening=0.0).picture).save(unfinished, format="PNG")
