"""Looks at what a client sent before it is accepted. Untrusted files are opened here, and where videos are made."""

import base64
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from emo_core.checkpoint import CARD, Card, at_hand, read_card
from emo_core.inference.preprocess import Choice, Framed, NoPicture, SeveralFaces, frame_portrait
from emo_core.serving.wish import Look, Wish
from emo_data.errors import UserError
from emo_data.features.framing import crop
from emo_data.schema import FPS, SAMPLE_RATE
from emo_data.sound import TooLong, spool_sound

PORTRAIT, SOUND, VIDEO, SIDECAR, PREMIERE = "portrait", "sound", "video.mp4", "video.json", "premiere.mp4"
"""Names in a job's folder."""
_LOOK_SIDE = 512
"""Pixels of what a person is shown of a portrait."""


class Refused(Exception):
    """Something is wrong with a request. `str` is a sentence for whoever made it."""

    def __init__(self, status: int, sentence: str, faces: int | None = None) -> None:
        """faces: that the portrait shows, where it must be said which one speaks."""
        super().__init__(status, sentence, faces)
        self.status, self.sentence, self.faces = status, sentence, faces

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True)
class Models:
    """The allow-list: who may speak."""

    cards: dict[str, Card]
    """By id; the first is taken where a client names none."""

    @classmethod
    def read(cls, folders: dict[str, str]) -> "Models":
        """folders: by id; they may lie in a store. Raises UserError where one is no model."""
        cards = {}
        for name, folder in folders.items():
            with at_hand(folder, only=CARD) as place:
                cards[name] = read_card(place)
        return cls(cards)

    def named(self, name: str) -> tuple[str, Card]:
        """Id and card. Raises Refused."""
        name = name or next(iter(self.cards))
        if name not in self.cards:
            raise Refused(422, f"model: there is no {name!r}; GET /v1/models lists them")
        return name, self.cards[name]


def inspect(folder: Path, wish: Wish, card: Card, max_seconds: float) -> int:
    """Frames of the video that the job in a folder will become. Raises Refused."""
    if card.speed_buckets is None and wish.speed != "calm":
        raise Refused(422, "speed: this model knows no speeds; leave it out")
    with _understood(folder):
        _framed(folder, wish, card)
        try:
            seconds = len(spool_sound(folder / SOUND, folder, max_seconds)) / SAMPLE_RATE
        except TooLong as error:
            raise Refused(413, f"audio: it is longer than {max_seconds:g} s, the most that is taken here") from error
    frames = round(seconds * FPS)
    if frames < 1:
        raise Refused(422, f"audio: {seconds:.3f} s of sound is less than one frame")
    return frames


def look(folder: Path, wish: Wish, card: Card) -> Look:
    """What a video of the portrait in a folder would show. Raises Refused."""
    with _understood(folder):
        framed = _framed(folder, wish, card)
    picture = io.BytesIO()
    Image.fromarray(crop(framed.whole, framed.square, _LOOK_SIDE)).save(picture, "JPEG", quality=85)
    _, rows, columns = np.nonzero(framed.portrait.mask.numpy())
    region = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / card.config.size
    return Look(
        faces=framed.faces,
        face=framed.face.round(4).tolist(),
        region=region.round(4).tolist(),
        picture=f"data:image/jpeg;base64,{base64.b64encode(picture.getvalue()).decode()}",
    )


def _framed(folder: Path, wish: Wish, card: Card) -> Framed:
    return frame_portrait(folder / PORTRAIT, card.config.size, wish.region, Choice(face=wish.face))


@contextmanager
def _understood(folder: Path) -> Iterator[None]:
    """What is wrong with a client's files is said to the client."""
    try:
        yield
    except UserError as error:
        status = 415 if isinstance(error, NoPicture) else 422
        faces = error.count if isinstance(error, SeveralFaces) else None
        raise Refused(status, for_a_client(str(error), folder), faces) from error


def for_a_client(sentence: str, folder: Path) -> str:
    """What the command line would say, in the service's words: no path of ours, no dashes before an option."""
    for name, said in ((PORTRAIT, "portrait"), (SOUND, "audio")):
        sentence = sentence.replace(str(folder / name), said)
    return re.sub(r"--(?=[a-z])", "", sentence.replace(f"{folder}/", "").replace(str(folder), "here"))
