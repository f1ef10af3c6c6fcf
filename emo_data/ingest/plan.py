"""What there is to do: units of sources, what a survey found out about them, and the chunks they are looked at in.

Frames are numbered at the dataset's rate from the source's first picture on. Pure: nothing is read or written here.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import Self

from emo_data.ingest.accept import Verdict
from emo_data.ingest.config import IngestConfig
from emo_data.schema import Reason

PAD_SECONDS = 1.0
"""How far a chunk sees beyond what it may have to decide about: more than a bridge and two looks of the detector."""


@dataclass(frozen=True)
class Unit:
    """A source, or the part of it that a manifest names.

    uri: what opens it; name: the same as text, whatever bytes a file's name holds. start, end: seconds in its own time.
    """

    uri: str
    name: str
    identity: str
    split: str
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True)
class Survey:
    """What a source is, without a look at its pictures.

    begin: seconds at which the first one appears; seconds: of all of them; frames: 0 where refused, which says why.
    """

    sha256: str
    begin: float = 0.0
    seconds: float = 0.0
    frames: int = 0
    refused: Verdict | None = None

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The reverse."""
        content = json.loads(text)
        refused = content.pop("refused")
        return cls(**content, refused=refused and Verdict(**(refused | {"reason": Reason(refused["reason"])})))


@dataclass(frozen=True)
class Chunk:
    """The work of one call: frames start to stop of a unit that has the frames first to last.

    stamp: `objects.stamp` of the source when it was surveyed.
    """

    key: str
    piece: int
    uri: str
    stamp: str
    name: str
    sha256: str
    identity: str
    split: str
    start: int
    stop: int
    first: int
    last: int

    @property
    def label(self) -> str:
        """Its name among all chunks of a dataset."""
        return f"{self.key}-{self.piece:05d}"

    def made_from(self) -> str:
        """16 hex digits of all that decides its rows besides the dataset's form."""
        content = asdict(self) | {"uri": "", "stamp": ""}  # where it is read from may change
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class View:
    """The frames that a chunk looks at, start to stop, to decide about its own.

    Both neighbours of a border forget the face at the same frame, `forget`: from there on they see the same.
    """

    start: int
    stop: int
    forget: int | None


def unit_key(unit: Unit, survey: Survey, form: str) -> str:
    """Equal contents and parts have equal keys. form: `IngestConfig.fingerprint`."""
    if not survey.sha256:  # nobody could read it: its name is all there is
        return f"unreadable-{hashlib.sha256(unit.name.encode()).hexdigest()[:16]}"
    part = "" if unit.start is None and unit.end is None else f"-{_milliseconds(unit.start)}-{_milliseconds(unit.end)}"
    return f"{survey.sha256[:32]}{part}-{form}"


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{round(seconds * 1000):08d}"


def chunks_of(unit: Unit, stamp: str, survey: Survey, key: str, config: IngestConfig) -> list[Chunk] | Verdict:
    """Equal chunks, or why the unit has none."""
    fps = config.fps
    first, last = 0, survey.frames  # of a part, the frames that are wholly in it
    if unit.start is not None:
        first = min(max(math.ceil((unit.start - survey.begin) * fps - 1e-6), 0), survey.frames)
    if unit.end is not None:
        last = min(max(math.floor((unit.end - survey.begin) * fps + 1e-6), 0), survey.frames)
    if last - first < config.min_seconds * fps - 0.5:
        seconds = max(last - first, 0) / fps
        return Verdict(Reason.TOO_SHORT, "the part that was named is too short", seconds, config.min_seconds)
    count = -(-(last - first) // config.chunk_frames)
    edges = [first + (last - first) * number // count for number in range(count + 1)]
    return [
        Chunk(
            key=key,
            piece=number,
            uri=unit.uri,
            stamp=stamp,
            name=unit.name,
            sha256=survey.sha256,
            identity=unit.identity,
            split=unit.split,
            start=edges[number],
            stop=edges[number + 1],
            first=first,
            last=last,
        )
        for number in range(count)
    ]


def view_of(chunk: Chunk, config: IngestConfig) -> View:
    """How far beyond its own frames a chunk looks: a clip that touches a border may be its own, or the neighbour's."""
    reach = round((config.min_seconds + PAD_SECONDS) * config.fps)
    return View(
        start=max(chunk.start - reach, chunk.first),
        stop=min(chunk.stop + reach, chunk.last),
        forget=chunk.stop - reach if chunk.stop < chunk.last else None,
    )
