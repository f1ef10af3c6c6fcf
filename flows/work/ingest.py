"""A job that makes videos into rows."""

from typing import Any

from emo_data.ingest.config import IngestConfig
from emo_data.ingest.on_ray import ray_crew, workers_here
from emo_data.ingest.run import CrewOf, alone, ingest
from emo_data.store import Piece
from flows.forms.ingest import IngestForm
from flows.forms.where import Where
from flows.told import Told
from flows.work import ray_address

_NUMBERS = ("size", "min_seconds", "max_seconds", "audio_model", "identity_pattern", "test_share")


def work(given: dict[str, Any], where: Where, told: Told) -> dict[str, Any]:
    """See `flows.work.do`."""
    form = IngestForm.model_validate(given)
    config = IngestConfig.model_validate({name: getattr(form, name) for name in _NUMBERS})
    crew: CrewOf = alone
    if form.workers != 0:
        # A cluster is not measured by the machine that this happens to run on.
        workers = form.workers or (_cluster_workers() if where.cluster else workers_here())
        crew = ray_crew(workers, ray_address(where), form.listeners)

    def count(piece: Piece) -> None:
        told.count(clips=piece.clips.rows if piece.clips else 0, seconds=round(piece.seconds, 2))
        told.count(**{f"rejected: {reason}": number for reason, number in piece.reasons.items()})

    summary = ingest(
        form.sources,
        form.out,
        config,
        crew=crew,
        phase=told.phase,
        retry_faults=form.retry_faults,
        on_piece=count,
    )
    return summary.model_dump()


def _cluster_workers() -> int:
    """A worker for every core that the cluster has now."""
    from emo_data.on_ray import cluster_cores

    return cluster_cores("auto")
