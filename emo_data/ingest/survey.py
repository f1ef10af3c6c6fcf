"""What all sources are, and what is known of them from earlier runs: DATASET/work/survey.jsonl."""

import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from emo_data import objects
from emo_data.ingest.plan import Survey, Unit
from emo_data.schema import FAULTS
from emo_data.store import Dataset

_SURVEYS = "work/survey.jsonl"
_SAVE_SECONDS = 60.0
_STATS_AT_ONCE = 32

Report = Callable[[int, int, str], None]
"""Called with how many units of work are done, of how many, and what happened so far."""


def survey_sources(
    units: list[Unit],
    dataset: Dataset,
    survey_all: Callable[[list[str]], Iterable[tuple[str, Survey]]],
    retry_faults: bool,
    report: Report,
) -> tuple[dict[str, str], dict[str, Survey]]:
    """Stamp and survey of each source by uri. What was surveyed before and has not changed since is not read again.

    survey_all: surveys the sources that it is given, in any order.
    """
    uris = list(dict.fromkeys(unit.uri for unit in units))
    with ThreadPoolExecutor(_STATS_AT_ONCE) as threads:
        stamps = dict(zip(uris, threads.map(_stamp, uris), strict=True))
    known = {
        uri: survey for uri, (stamp, survey) in _saved_surveys(dataset).items() if stamp and stamp == stamps.get(uri)
    }
    if retry_faults:
        known = {uri: survey for uri, survey in known.items() if not _is_fault(survey)}
    missing = [uri for uri in uris if uri not in known]
    saved, useless = time.monotonic(), 0
    for number, (uri, survey) in enumerate(survey_all(missing) if missing else (), start=1):
        known[uri] = survey
        if not survey.sha256:
            stamps[uri] = ""  # what could not be read at all is tried each time
        useless += survey.refused is not None
        report(number, len(missing), f"{useless} of no use")
        if time.monotonic() - saved > _SAVE_SECONDS:
            _save_surveys(dataset, stamps, known)
            saved = time.monotonic()
    if missing:
        _save_surveys(dataset, stamps, known)
    return stamps, known


def _stamp(uri: str) -> str:
    try:
        return objects.stamp(uri)
    except OSError:
        return ""  # the survey will say what is wrong with it


def _is_fault(survey: Survey) -> bool:
    return survey.refused is not None and survey.refused.reason in FAULTS


def _saved_surveys(dataset: Dataset) -> dict[str, tuple[str, Survey]]:
    try:
        lines = dataset.folder.read(_SURVEYS).decode().splitlines()
    except FileNotFoundError:
        return {}
    entries = [json.loads(line) for line in lines]
    return {entry["uri"]: (entry["stamp"], Survey.from_json(entry["survey"])) for entry in entries}


def _save_surveys(dataset: Dataset, stamps: dict[str, str], known: dict[str, Survey]) -> None:
    """Those of earlier runs, too: a dataset may be filled from one source after the other."""
    kept = _saved_surveys(dataset) | {uri: (stamps[uri], survey) for uri, survey in known.items()}
    lines = [
        json.dumps({"uri": uri, "stamp": stamp, "survey": survey.to_json()}) for uri, (stamp, survey) in kept.items()
    ]
    dataset.folder.write(_SURVEYS, "\n".join(lines).encode())
