"""Outcomes come in, pair by pair; the report comes out. Holds numbers of clips and sums of features, never pictures."""

import os
from typing import Any

import numpy as np

from emo_core.evaluation.block import FRAMES
from emo_core.evaluation.extractors import FACELESS
from emo_core.evaluation.frechet import Distance, Features
from emo_core.evaluation.identity import similarity
from emo_core.evaluation.motion import SPEED_EDGES, containment, histogram, velocities
from emo_core.evaluation.pairs import Pair
from emo_core.evaluation.report import KEYS, ClipReport, Report, Side
from emo_core.evaluation.watch import LEAST_FACES, Seen, Unseen
from emo_data.dataset.window import region_of

DISTANCES = ("fid", "fvd", "efid")
LONGER = 0.1
"""Not in the paper: a generated video whose length differs by a larger share from its truth's belongs to another."""
SAME_SOUND = 0.3
"""Not in the paper: least correlation, at the best lag, of two sounds that are taken for one. Coded anew, a sound keeps
0.9 and more; two voices of one kind have below 0.15."""


class Tally:
    """Call `add` for every pair, those of one truth in a row; then `report`."""

    def __init__(self, metrics: tuple[str, ...]) -> None:
        self._metrics = metrics
        self._features = {metric: Features() for metric in metrics if metric in DISTANCES}
        self._speeds = {side: np.zeros(len(SPEED_EDGES) - 1, np.int64) for side in ("generated", "truth")}
        self._clips: list[ClipReport] = []
        self._counted_truth: dict[str, set[str]] = {}

    def add(self, pair: Pair, generated: Seen | Unseen, truth: Seen | Unseen, portrait: Seen | Unseen | None) -> None:
        """The outcomes of a pair. portrait: None where the manifest names none."""
        clip = _clip(pair)
        self._clips.append(clip)
        looked = {"generated": generated, "truth": truth, "portrait": portrait}
        found = [f"{side}: {one.problem}" for side, one in looked.items() if isinstance(one, Unseen)]
        if isinstance(generated, Seen) and isinstance(truth, Seen):
            found += _mismatch(pair, generated, truth)
        clip.problems += found
        if clip.problems or isinstance(generated, Unseen) or isinstance(truth, Unseen) or isinstance(portrait, Unseen):
            clip.left_out = list(self._metrics)
            return
        reference = _reference(truth, portrait)
        clip.generated = self._side(pair, generated, truth, reference, clip, "generated")
        clip.truth = self._side(pair, truth, truth, reference, clip, "truth")
        if generated.frames != truth.frames:
            clip.notes.append(f"{generated.frames} frames against {truth.frames} of the truth")
        if abs(generated.width * truth.height / (generated.height * truth.width) - 1) > 0.02:
            clip.notes.append(
                f"{generated.width} x {generated.height} against {truth.width} x {truth.height}: another shape, which "
                "FID and FVD see"
            )
        self._count(pair, clip, generated, truth)

    def refuse(self, pair: Pair) -> None:
        """A pair that there is nothing to look at for."""
        clip = _clip(pair)
        clip.left_out = list(self._metrics)
        self._clips.append(clip)

    def report(self, extractors: dict[str, dict[str, Any]], settings: dict[str, Any]) -> Report:
        """All that was found."""
        clips = sorted(self._clips, key=lambda clip: clip.name)
        metrics, reasons, samples = dict[str, float | None](), dict[str, str](), dict[str, Distance]()
        found: dict[str, float | None]
        for metric in KEYS:
            if metric not in self._metrics:
                found, reason = {}, "not asked for"
            elif metric in DISTANCES:
                try:
                    samples[metric] = self._features[metric].distance()
                    found, reason = {metric: samples[metric].value}, ""
                except ValueError as error:
                    found, reason = {}, str(error)
            else:
                found, reason = _mean(metric, clips, "generated")
            for key in KEYS[metric]:
                metrics[key] = found.get(key)
                if metrics[key] is None:
                    reasons[key] = reason or _REASONS.get(key, "no clip gave it")
        truth = dict[str, float | None]()
        for metric in self._metrics:
            truth |= {} if metric in DISTANCES else _mean(metric, clips, "truth")[0]
        counted = {metric: sum(metric not in clip.left_out for clip in clips) for metric in self._metrics}
        frames = {side: counts.tolist() for side, counts in self._speeds.items()}
        return Report(
            metrics=metrics,
            reasons=reasons,
            ground_truth=truth,
            counted=counted,
            samples=samples,
            extractors=extractors,
            clips=clips,
            settings=settings | _sizes(clips),
            speed_frames=frames,
        )

    def _side(
        self, pair: Pair, seen: Seen, truth: Seen, reference: np.ndarray | None, clip: ClipReport, side: str
    ) -> Side:
        """A video's own numbers; whatever is missing is written down in the clip."""
        faceless = set(self._metrics) <= FACELESS
        told = Side(
            frames=seen.frames,
            width=seen.width,
            height=seen.height,
            missing_frames=seen.missing,
            face_share=None if faceless else seen.face_share,
        )
        if seen.missing:
            clip.notes.append(f"{side}: {seen.missing} of {seen.frames} pictures cannot be decoded")
        if "fvd" in self._metrics and not len(seen.features["fvd"]):
            self._leave_out(clip, {"fvd"}, f"{side}: has no {FRAMES} whole frames in a row")
        if faceless:
            return told
        if seen.face_share < LEAST_FACES:
            faces = f"{side}: shows a face in {seen.faces} of {seen.frames} frames only"
            self._leave_out(clip, set(self._metrics) - FACELESS, faces)
            return told
        if seen.faces < seen.frames:
            clip.notes.append(f"{side}: {seen.frames - seen.faces} of {seen.frames} frames show no face")
        if "fsim" in seen.features and reference is not None:
            told.fsim = similarity(seen.features["fsim"], reference)
        if "sync" in self._metrics and seen.sync is None:
            silent = f"{side}: lips and sound cannot be judged: {seen.sync_reason}"
            if side == "generated":
                self._leave_out(clip, {"sync"}, silent)
            else:
                clip.notes.append(silent)
        elif seen.sync is not None:
            told.sync_confidence, told.sync_offset = seen.sync.confidence, seen.sync.offset
            told.sync_distance = seen.sync.distance
        if "motion" in self._metrics and seen.motion is None:
            self._leave_out(clip, {"motion"}, f"{side}: no two neighbouring frames show a face")
        elif "motion" in self._metrics and seen.motion is not None:
            told.velocity_mean, told.velocity_variance = seen.motion.velocity_mean, seen.motion.velocity_variance
            told.travel_across, told.travel_down = seen.motion.travel_across, seen.motion.travel_down
            region = np.array(pair.region) if pair.region else (region_of(truth.boxes) if truth.faces else None)
            told.region_containment = None if region is None else containment(seen.boxes, region)
        return told

    def _leave_out(self, clip: ClipReport, metrics: set[str], problem: str) -> None:
        clip.problems.append(problem)
        clip.left_out = [metric for metric in self._metrics if metric in metrics or metric in clip.left_out]

    def _count(self, pair: Pair, clip: ClipReport, generated: Seen, truth: Seen) -> None:
        """Features of the pair into the sums. A truth that several videos are compared with counts once."""
        sums = [metric for metric in self._features if metric not in clip.left_out]
        for metric in sums:
            done = self._counted_truth.setdefault(metric, set())
            file = os.path.realpath(str(pair.truth))
            for side, seen in (("generated", generated), ("truth", truth)):
                if metric in seen.features and not (side == "truth" and file in done):
                    self._features[metric].add(side, seen.features[metric])
            done.add(file)
        if "motion" in self._metrics and "motion" not in clip.left_out:
            for side, seen in (("generated", generated), ("truth", truth)):
                self._speeds[side] += histogram(seen.speed)


_REASONS = {
    "sync_distance": "this extractor has none",
    "vmv": "one clip has no variance of means",
}


def _clip(pair: Pair) -> ClipReport:
    return ClipReport(
        name=pair.name,
        generated_file=pair.generated,
        truth_file=pair.truth,
        portrait_file=pair.portrait,
        identity=pair.identity,
        problems=list(pair.problems),
    )


def _mismatch(pair: Pair, generated: Seen, truth: Seen) -> list[str]:
    """Signs that two videos are not of one clip."""
    found = []
    if abs(generated.frames - truth.frames) > LONGER * truth.frames:
        found.append(f"wrong pairing? it has {generated.frames} frames, its truth {truth.frames}")
    one, other = generated.sound, truth.sound
    if pair.audio is None and one is not None and other is not None and one.any() and other.any():
        alike = likeness(one, other)
        if alike < SAME_SOUND:
            found.append(f"wrong pairing? its sound is not its truth's (correlation {alike:.2f} at best)")
    return found


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    """The greatest correlation of two sounds (S,), whatever the lag."""
    from scipy.signal import correlate

    one, other = (sound.astype(np.float64) - sound.mean(dtype=np.float64) for sound in (one, other))
    loudest = max(float(np.linalg.norm(one) * np.linalg.norm(other)), 1e-12)
    return float(np.abs(correlate(one, other, method="fft")).max()) / loudest


def _reference(truth: Seen, portrait: Seen | None) -> np.ndarray | None:
    """Of the portrait; else of the truth's first frame with a face. Not in the paper: which picture it is."""
    rows = (portrait or truth).features.get("fsim")
    return None if rows is None or not len(rows) else rows[0]


def _mean(metric: str, clips: list[ClipReport], side: str) -> tuple[dict[str, float | None], str]:
    """The numbers of a metric over the clips that count, or why there are none."""
    told: list[Side] = [getattr(clip, side) for clip in clips if metric not in clip.left_out and getattr(clip, side)]
    found: dict[str, float | None] = {}
    for key in KEYS[metric]:
        values = [value for one in told if (value := getattr(one, key, None)) is not None]
        if values:
            found[key] = float(np.median(values) if key == "sync_offset" else np.mean(values))
    if metric == "motion" and found:
        moving = [one for one in told if one.velocity_mean is not None]
        means, variances = ([getattr(one, key) for one in moving] for key in ("velocity_mean", "velocity_variance"))
        found |= velocities(means, variances).model_dump()
    return found, "" if told else "no clip counts: see their problems"


def _sizes(clips: list[ClipReport]) -> dict[str, Any]:
    sides = {side: [getattr(clip, side) for clip in clips if getattr(clip, side)] for side in ("generated", "truth")}
    return {
        "resolutions": {side: sorted({f"{one.width}x{one.height}" for one in found}) for side, found in sides.items()},
        "frames": {side: sum(one.frames for one in found) for side, found in sides.items()},
    }
