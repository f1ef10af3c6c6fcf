"""What is counted of a service, in the form that Prometheus reads."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from emo_core.serving.wish import State

FORMAT = "text/plain; version=0.0.4; charset=utf-8"
_PER_FRAME = (0.01, 0.02, 0.04, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_WAIT = (0.1, 1, 5, 15, 60, 300, 900, 3600, 14400)


class Metrics:
    """Since this service began, but for the number of jobs, which is what the journal says."""

    def __init__(self, counts: Callable[[], dict[State, int]], queue: int) -> None:
        """counts: jobs by state. queue: how many may be open."""
        self._registry = CollectorRegistry()
        self._registry.register(_Jobs(counts, queue))

        def counter(name: str, said: str, label: str) -> Counter:
            return Counter(name, said, [label], registry=self._registry)

        self.ended = counter("emo_jobs_ended", "jobs that are over", "state")
        self.failures = counter("emo_failures", "jobs that failed", "reason")
        self.lost = Counter("emo_makers_lost", "times that a maker died under a job", registry=self._registry)
        self.answers = counter("emo_answers", "answers by HTTP status", "status")
        self.frames = Counter("emo_frames", "frames of finished videos", registry=self._registry)
        self.seconds_per_frame = Histogram(
            "emo_seconds_per_frame", "from a job's start to its end", buckets=_PER_FRAME, registry=self._registry
        )
        self.waited = Histogram(
            "emo_seconds_waited", "from a job's acceptance to its start", buckets=_WAIT, registry=self._registry
        )

    def exposition(self) -> bytes:
        """All of it, see FORMAT."""
        return generate_latest(self._registry)


class _Jobs(Collector):
    def __init__(self, counts: Callable[[], dict[State, int]], queue: int) -> None:
        self._counts, self._queue = counts, queue

    def collect(self) -> Iterator[Metric]:
        """As prometheus_client asks for it."""
        jobs = GaugeMetricFamily("emo_jobs", "jobs that are known", labels=["state"])
        for state, count in self._counts().items():
            jobs.add_metric([state], count)
        yield jobs
        yield GaugeMetricFamily("emo_queue_limit", "jobs that may be open at a time", value=self._queue)
