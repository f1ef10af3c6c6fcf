"""What ingestion costs: the whole line against its bare kernels, one core each, and how both scale. In one run.

The kernels are the libraries' own calls with nothing around them: one decode, one mesh per frame, the detector at every
fifth frame, one crop, one encode, one wav2vec2. All figures are seconds per frame of video at the dataset's rate.
"""

import io
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from pydantic import BaseModel
from transformers import Wav2Vec2Config, Wav2Vec2Model

from emo_data.errors import UserError
from emo_data.features.audio import AudioEncoder
from emo_data.features.bare import seconds_of, seconds_of_faces, view_of
from emo_data.features.faces import find_faces
from emo_data.features.framing import frame_face
from emo_data.film import encode_video
from emo_data.ingest.config import IngestConfig
from emo_data.ingest.contain import Limits
from emo_data.ingest.on_ray import ray_crew
from emo_data.ingest.plan import Chunk, chunks_of, unit_key
from emo_data.ingest.run import CrewOf
from emo_data.ingest.sources import find_units
from emo_data.ingest.worker import Setup, Worker
from emo_data.objects import stamp
from emo_data.sound import sound_between
from emo_data.store import Dataset
from emo_data.video import probe, read_pictures

_COPIES = 4
"""How often each source is ingested by each worker when scaling is measured."""

Report = Callable[[int, int, str], None]


class IngestFigures(BaseModel):
    """seconds_per_frame: of each kernel (wav2vec included), of their sum, and of the line with and without wav2vec."""

    sources: int
    frames: int
    rounds: int
    seconds_per_frame: dict[str, float]
    line_over_kernels: float
    line_over_kernels_without_wav2vec: float
    real_time_without_wav2vec: float
    """Seconds of video per second on one core."""
    video_hours_per_core_day: float
    workers: int
    kernels_scaling: float
    """Work per second of `workers` processes of bare kernels over that of one."""
    line_scaling: float
    scaling_over_kernels: float


@dataclass(frozen=True)
class _Subject:
    """A source with one face throughout, decoded."""

    path: Path
    pictures: list[np.ndarray]
    view: tuple[slice, slice]
    """What the mesh sees."""
    square: tuple[slice, slice]
    """What is stored."""
    sound: np.ndarray | None


def bench_ingest(
    sources: list[str], size: int, rounds: int, workers: int, audio_model: str | None, report: Report
) -> IngestFigures:
    """Measure. sources: what `emo ingest` takes; those without one face throughout are left out.

    audio_model: None for a wav2vec2-base with random weights. UserError where no source is of use.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = IngestConfig(size=size, audio_model=audio_model or _random_base(Path(folder)), test_share=0)
        bench = _Bench(Path(folder), sources, config)
        steps = 2 * rounds + 2
        kernels: dict[str, float] = {}
        look, hear = float("inf"), float("inf")
        with Worker(bench.setup("line")) as worker:
            _line(worker, bench.chunks, "warm")  # start-up does not count
            for number in range(rounds):
                report(2 * number, steps, "kernels")
                found = bench.kernels()
                kernels = {name: min(found[name], kernels.get(name, float("inf"))) for name in found}
                report(2 * number + 1, steps, "line")
                times = _line(worker, bench.chunks, str(number))
                look, hear = min(look, times[0]), min(hear, times[1])
        report(steps - 2, steps, "kernels side by side")
        kernels_scaling = bench.kernels_rate(workers) / bench.kernels_rate(1)
        report(steps - 1, steps, "workers side by side")
        line_scaling = bench.line_rate(workers) / bench.line_rate(1)
        report(steps, steps, "")
    frames, bare = bench.frames, sum(kernels.values())
    silent = bare - kernels["wav2vec"]
    per_frame = {name: seconds / frames for name, seconds in kernels.items()}
    per_frame |= {"kernels": bare / frames, "line": (look + hear) / frames, "line_without_wav2vec": look / frames}
    return IngestFigures(
        sources=len(bench.subjects),
        frames=frames,
        rounds=rounds,
        seconds_per_frame=per_frame,
        line_over_kernels=(look + hear) / bare,
        line_over_kernels_without_wav2vec=look / silent,
        real_time_without_wav2vec=frames / config.fps / look,
        video_hours_per_core_day=frames / config.fps / (look + hear) * 24,
        workers=workers,
        kernels_scaling=kernels_scaling,
        line_scaling=line_scaling,
        scaling_over_kernels=line_scaling / kernels_scaling,
    )


class _Bench:
    def __init__(self, folder: Path, sources: list[str], config: IngestConfig) -> None:
        self.folder, self.config = folder, config
        self.encoder = AudioEncoder.load(config.audio_model)
        self.subjects: list[_Subject] = []
        self.chunks: list[Chunk] = []
        with Worker(self.setup("survey")) as worker:
            for unit in find_units(sources, config):
                survey = worker.survey(unit.uri)
                chunks = survey.refused or chunks_of(
                    unit, stamp(unit.uri), survey, unit_key(unit, survey, "bench"), config
                )
                if not isinstance(chunks, list) or len(chunks) != 1:
                    continue
                tables = worker.look(chunks[0]).tables
                if tables is not None and sum(tables[0].column("frames").to_pylist()) == survey.frames:
                    self.chunks.append(chunks[0])
                    self.subjects.append(_subject(Path(unit.uri), config.fps))
        if not self.subjects:
            raise UserError("no source shows one face from its beginning to its end; give other sources")
        self.frames = sum(len(subject.pictures) for subject in self.subjects)

    def setup(self, name: str) -> Setup:
        url = str(self.folder / name)
        Dataset.create(url, {})
        return Setup(url, name, self.config, self.encoder.fingerprint, Limits())

    def kernels(self) -> dict[str, float]:
        """Seconds of each kernel over all sources."""
        total: dict[str, float] = {}
        for subject in self.subjects:
            for name, seconds in _kernels(subject, self.config, self.encoder).items():
                total[name] = total.get(name, 0.0) + seconds
        return total

    def kernels_rate(self, workers: int) -> float:
        """Rounds per second of `workers` processes, each of which does the bare kernels twice."""
        context = multiprocessing.get_context("spawn")
        ready, go = context.Semaphore(0), context.Event()
        arguments = (self.subjects[:2], self.config, ready, go)
        processes = [context.Process(target=_kernels_twice, args=arguments) for _ in range(workers)]
        for process in processes:
            process.start()
        for _ in processes:
            ready.acquire()
        start = time.perf_counter()
        go.set()
        for process in processes:
            process.join()
        return workers / (time.perf_counter() - start)

    def line_rate(self, workers: int) -> float:
        """Chunks per second of Ray workers, from when each has done one to when each has one left to do."""
        crew: CrewOf = ray_crew(workers)
        name = f"workers{workers}"
        many = [
            replace(self.chunks[number % 2 % len(self.chunks)], key=f"{number:04d}")
            for number in range(2 * _COPIES * workers + 2 * workers)
        ]
        with crew(self.setup(name)) as hands:
            times = [time.perf_counter() for _ in hands.ingest(many)]
        return (len(times) - 2 * workers) / (times[-workers - 1] - times[workers - 1])


def _kernels_twice(subjects: list[_Subject], config: IngestConfig, ready: object, go: object) -> None:
    torch.set_num_threads(1)
    encoder = AudioEncoder.load(config.audio_model)
    for subject in subjects:
        _kernels(subject, config, encoder)  # warm
    ready.release()  # type: ignore[attr-defined]
    go.wait()  # type: ignore[attr-defined]
    for _ in range(2):
        for subject in subjects:
            _kernels(subject, config, encoder)


def _line(worker: Worker, chunks: list[Chunk], key: str) -> tuple[float, float]:
    """Seconds until all chunks are looked at, and until they are heard and written."""
    look = hear = 0.0
    for number, chunk in enumerate(chunks):
        fresh = replace(chunk, key=f"{key}-{number}")
        start = time.perf_counter()
        looked = worker.look(fresh)
        middle = time.perf_counter()
        worker.hear_and_write(looked)
        look, hear = look + middle - start, hear + time.perf_counter() - middle
    return look, hear


def _kernels(subject: _Subject, config: IngestConfig, encoder: AudioEncoder) -> dict[str, float]:
    """Seconds of each over one source."""
    pictures, size = subject.pictures, (config.size, config.size)
    squares = [picture[subject.square] for picture in pictures]
    way = cv2.INTER_AREA if squares[0].shape[0] > config.size else cv2.INTER_CUBIC
    crops = [cv2.resize(square, size, interpolation=way) for square in squares]
    times = {"decode": seconds_of(lambda: _decoded(subject.path)), **seconds_of_faces(pictures, subject.view)}
    times["crop"] = seconds_of(lambda: [cv2.resize(square, size, interpolation=way) for square in squares])
    times["encode"] = seconds_of(lambda: _encoded(crops, config.fps))
    times["wav2vec"] = 0.0
    if subject.sound is not None:
        wave = torch.from_numpy(subject.sound)[None]
        with torch.inference_mode():
            times["wav2vec"] = seconds_of(lambda: encoder.model(wave, output_hidden_states=True))
    return times


def _decoded(path: Path) -> None:
    try:
        import decord

        reader = decord.VideoReader(str(path), num_threads=1)
        for _ in range(len(reader)):
            reader.next().asnumpy()
    except ImportError:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                frame.to_ndarray(format="rgb24")


def _encoded(pictures: list[np.ndarray], fps: float) -> None:
    encode_video(io.BytesIO(), pictures, fps)


def _subject(path: Path, fps: float) -> _Subject:
    info = probe(path)
    pictures = [picture for picture in read_pictures(info, info.at_rate(fps), "pyav") if picture is not None]
    (face, *_) = find_faces(pictures[0])
    stored = frame_face(face.box, info.width, info.height)
    top, left = max(stored.y, 0), max(stored.x, 0)
    square = slice(top, stored.y + stored.side), slice(left, stored.x + stored.side)
    sound = sound_between(path, float(info.times[0]), len(pictures) / fps) if info.has_sound else None
    return _Subject(path, pictures, view_of(face.box), square, sound)


def _random_base(folder: Path) -> str:
    """A wav2vec2 of the usual size; what its weights are does not change what it costs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Wav2Vec2Model(Wav2Vec2Config()).save_pretrained(folder / "wav2vec2")
    return str(folder / "wav2vec2")
