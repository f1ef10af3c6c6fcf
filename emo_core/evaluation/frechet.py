"""The Fréchet distance of two sets of features, each held as a mean and a scatter matrix (EMO 4.2: FID, FVD, E-FID).

Legend: N rows, D width of a feature. All sums are float64.
"""

from itertools import combinations
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict

GROUPS = 4
"""Not in the paper: how many parts a set is kept in, so that its distance can be told at a half and a quarter of it."""


class Moments:
    """Mean (D,) and scatter (D, D) of all rows so far, in the memory of one matrix."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self.mean = np.zeros(width)
        self.scatter = np.zeros((width, width))

    def add(self, rows: np.ndarray) -> None:
        """rows (N, D), finite; none is nothing. ValueError for rows of another width, and for NaN."""
        if rows.ndim != 2 or rows.shape[1] != len(self.mean):
            raise ValueError(f"features of shape {rows.shape} where (N, {len(self.mean)}) is expected")
        if not np.isfinite(rows).all():
            raise ValueError("features that are not numbers")
        if len(rows):
            rows = rows.astype(np.float64)
            fresh = Moments(len(self.mean))
            fresh.count, fresh.mean = len(rows), rows.mean(axis=0)
            centred = rows - fresh.mean
            fresh.scatter = centred.T @ centred
            self.merge(fresh)

    def merge(self, other: "Moments") -> None:
        """Chan, Golub and LeVeque (1983): as if the other's rows had been added here."""
        count = self.count + other.count
        if count:
            step = other.mean - self.mean
            self.scatter += other.scatter + np.outer(step, step) * (self.count * other.count / count)
            self.mean = self.mean + step * (other.count / count)
            self.count = count

    @classmethod
    def together(cls, parts: list["Moments"]) -> Self:
        """All parts in one; they stay as they are."""
        whole = cls(len(parts[0].mean))
        for part in parts:
            whole.merge(part)
        return whole

    @property
    def covariance(self) -> np.ndarray:
        """(D, D), over N - 1. ValueError for fewer than two rows."""
        if self.count < 2:
            raise ValueError(f"{self.count} rows have no covariance")
        return self.scatter / (self.count - 1)


def frechet_distance(one: Moments, other: Moments) -> float:
    """|m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1 C2)^(1/2)), squared Fréchet distance of two Gaussians.

    The trace of the root is the sum of the singular values of C1^(1/2) C2^(1/2), each root by an eigendecomposition of
    a symmetric matrix whose negative eigenvalues (rounding) are taken as 0. So nothing becomes complex, singular
    covariances need no epsilon, and a set has distance 0 to itself up to rounding. ValueError below two rows.
    """
    roots = [_root(side.covariance) for side in (one, other)]
    shared = np.linalg.svd(roots[0] @ roots[1], compute_uv=False).sum()
    step = one.mean - other.mean
    distance = step @ step + sum(np.sum(root**2) for root in roots) - 2 * shared  # the trace of C is |C^(1/2)|^2
    return max(float(distance), 0.0)


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


class Distance(BaseModel):
    """A distance and how much of it few samples make up: the estimate is too high by about b / N.

    at_half, at_quarter: the mean distance of as many rows. extrapolated: where a line through all three over 1 / N
    meets 0 (after Chong and Forsyth, 2020). None where a part has fewer than two rows.
    """

    model_config = ConfigDict(extra="forbid")

    value: float
    generated_rows: int
    truth_rows: int
    width: int
    at_half: float | None
    at_quarter: float | None
    extrapolated: float | None


class Features:
    """The features of both sides. Each video's rows go to one of `GROUPS` parts, by turns."""

    def __init__(self) -> None:
        self._parts: dict[str, list[Moments]] = {}
        self._videos: dict[str, int] = {}

    def add(self, side: str, rows: np.ndarray) -> None:
        """rows (N, D) of one video."""
        parts = self._parts.setdefault(side, [Moments(rows.shape[1]) for _ in range(GROUPS)])
        turn = self._videos.get(side, 0)
        parts[turn % GROUPS].add(rows)
        self._videos[side] = turn + 1

    def distance(self) -> Distance:
        """Of generated and truth. ValueError says what is missing."""
        for side in ("generated", "truth"):
            rows = sum(part.count for part in self._parts.get(side, []))
            if rows < 2:
                raise ValueError(f"{rows} features of {side} videos: at least two are needed")
        generated, truth = self._parts["generated"], self._parts["truth"]
        whole = frechet_distance(Moments.together(generated), Moments.together(truth))
        half, quarter = self._at(GROUPS // 2), self._at(GROUPS // 4)
        infinite = None
        if half is not None and quarter is not None:
            infinite = float(np.polyfit([1, 2, 4], [whole, half, quarter], 1)[1])
        return Distance(
            value=whole,
            generated_rows=sum(part.count for part in generated),
            truth_rows=sum(part.count for part in truth),
            width=len(generated[0].mean),
            at_half=half,
            at_quarter=quarter,
            extrapolated=infinite,
        )

    def _at(self, size: int) -> float | None:
        """The mean over all choices of so many parts, the same on both sides."""
        found = []
        for chosen in combinations(range(GROUPS), size):
            sides = [Moments.together([self._parts[side][part] for part in chosen]) for side in ("generated", "truth")]
            if min(side.count for side in sides) < 2:
                return None
            found.append(frechet_distance(*sides))
        return float(np.mean(found))
