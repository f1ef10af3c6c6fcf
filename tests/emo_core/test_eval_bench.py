"""The figures of scoring: all there, and about what they say they are about."""

import pytest

from emo_core.bench.evaluation import bench_evaluation
from emo_core.evaluation.extractors import OFFLINE


def test_all_figures_are_there():
    told = []
    found = bench_evaluation(4, 1.0, 128, None, lambda done, total, note: told.append((done, total)))
    assert set(found.bare_seconds) == {"decoding", "sound", "mesh", "detector", *OFFLINE}
    assert found.frames == 4 * 50 and min(found.bare_seconds.values()) > 0
    assert found.line_over_bare == pytest.approx(found.line_seconds / sum(found.bare_seconds.values()))
    assert found.line_seconds > found.bare_seconds["mesh"] / 2
    assert told[-1] == (8, 8)
