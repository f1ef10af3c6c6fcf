"""The Fréchet distance against closed forms and scipy's matrix square root."""

import numpy as np
import pytest
from scipy import linalg

from emo_core.evaluation.frechet import Features, Moments, frechet_distance


def moments(rows, pieces=1):
    found = Moments(rows.shape[1])
    for piece in np.array_split(rows, pieces):
        found.add(piece)
    return found


def gaussian(mean, covariance):
    """Moments of exactly this mean and covariance."""
    found = Moments(len(mean))
    found.count, found.mean, found.scatter = 1001, np.asarray(mean, float), 1000 * np.asarray(covariance, float)
    return found


def by_scipy(one, other):
    a, b = one.covariance, other.covariance
    root = linalg.sqrtm(a @ b)
    return float(((one.mean - other.mean) ** 2).sum() + np.trace(a + b - 2 * np.real(root)))


def test_one_dimension():
    assert frechet_distance(gaussian([1], [[4]]), gaussian([3], [[1]])) == pytest.approx(4 + (2 - 1) ** 2)


def test_gaussians_that_share_their_axes():
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    a, b = rng.uniform(0.1, 3, (2, 6))
    found = frechet_distance(
        gaussian(np.zeros(6), axes * a**2 @ axes.T), gaussian(np.full(6, 0.5), axes * b**2 @ axes.T)
    )
    assert found == pytest.approx(6 * 0.25 + ((a - b) ** 2).sum(), rel=1e-10)


@pytest.mark.parametrize(("rows", "width"), [(500, 8), (3000, 64), (2000, 256)])
def test_it_agrees_with_scipy(rows, width):
    rng = np.random.default_rng(width)
    mix = rng.normal(size=(2, width, width)) / np.sqrt(width)
    sets = [moments(rng.normal(size=(rows, width)) @ mix[side] + side * 0.1) for side in (0, 1)]
    assert frechet_distance(*sets) == pytest.approx(by_scipy(*sets), rel=1e-6)


def test_fewer_rows_than_dimensions():
    """A singular covariance needs no epsilon: in the span of the data the answer is the same."""
    rng = np.random.default_rng(1)
    small = [rng.normal(size=(30, 10)), rng.normal(1, 2, size=(30, 10))]
    axes = np.linalg.qr(rng.normal(size=(100, 10)))[0]
    wide = [rows @ axes.T for rows in small]
    assert frechet_distance(*map(moments, wide)) == pytest.approx(by_scipy(*map(moments, small)), rel=1e-8)


def test_a_set_has_no_distance_to_itself():
    rows = np.random.default_rng(2).normal(5, 100, size=(40, 64))
    assert frechet_distance(moments(rows), moments(rows)) < 1e-6


def test_sums_in_pieces_are_sums_at_once():
    rows = np.random.default_rng(3).normal(1e4, 1, size=(1000, 5))
    parts = [moments(part) for part in np.array_split(rows, 7)]
    for found in (moments(rows, 13), Moments.together(parts), Moments.together(parts[::-1])):
        assert found.count == 1000
        assert found.mean == pytest.approx(rows.mean(0))
        assert found.covariance == pytest.approx(np.cov(rows.T), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("rows", [np.zeros((3, 4)), np.full((3, 5), np.nan)])
def test_rows_that_cannot_be_added(rows):
    with pytest.raises(ValueError, match="features"):
        Moments(5).add(rows)


def test_noise_makes_the_distance_grow():
    rng = np.random.default_rng(4)
    truth, noise = rng.normal(size=(2, 400, 18))
    found = []
    for level in (0, 0.01, 0.03, 0.1, 0.3, 1):
        features = Features()
        for part in range(8):
            features.add("truth", truth[part::8])
            features.add("generated", (truth + level * noise)[part::8])
        found.append(features.distance().value)
    assert found[0] < 1e-6
    assert np.all(np.diff(found) > 0)


def test_bias_of_few_samples_is_told_and_taken_out():
    """Two sets of one distribution: all of the distance is bias."""
    rng = np.random.default_rng(5)
    features = Features()
    for _ in range(40):
        for side in ("generated", "truth"):
            features.add(side, rng.normal(size=(25, 32)))
    found = features.distance()
    assert found.generated_rows == found.truth_rows == 1000 and found.width == 32
    assert found.value < found.at_half < found.at_quarter
    assert abs(found.extrapolated) < found.value / 4


def test_too_little_is_said():
    features = Features()
    with pytest.raises(ValueError, match="at least two"):
        features.distance()
    features.add("generated", np.ones((5, 3)))
    features.add("truth", np.ones((1, 3)))
    with pytest.raises(ValueError, match="1 features of truth"):
        features.distance()
