import pytest

from flows import progress as module
from flows.progress import clock, progress


@pytest.fixture
def now(monkeypatch):
    """A clock that the test moves."""
    seconds = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: seconds[0])
    return seconds


def test_plain_lines_are_spaced_and_carry_the_time_left(now, capsys):
    with progress("ingest") as report:
        for step in range(1, 101):
            now[0] = float(step)
            report(step, 100, "clip")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "ingest: 10 of 100 (10%), 1:30 min left  clip"
    assert lines[-1] == "ingest: done in 1:40 min"
    assert len(lines) == 11


def test_slow_work_is_not_taken_for_dead_work(now, capsys):
    with progress("train") as report:
        for step in range(1, 121):
            now[0] = float(step)
            report(step, 100_000)
    assert len(capsys.readouterr().err.splitlines()) == 5  # at 30, 60, 90, 120 seconds, and the last


def test_fast_work_says_one_line_and_stdout_stays_clean(capsys):
    with progress("sample") as report:
        report(1, 1)
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)


def test_failed_work_is_not_called_done(capsys):
    with pytest.raises(ZeroDivisionError), progress("ingest") as report:
        report(1, 2)
        _ = 1 / 0
    assert "done" not in capsys.readouterr().err


def test_a_terminal_gets_a_bar_with_the_time_left(monkeypatch, capfd):
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    with progress("stage 1") as report:
        report(3, 4, "step")
    out, err = capfd.readouterr()
    assert out == ""
    assert "stage 1" in err and "100%" in err and "left" in err


@pytest.mark.parametrize(("seconds", "text"), [(7.34, "7.3 s"), (245, "4:05 min"), (7384, "2:03:04 h")])
def test_clock(seconds, text):
    assert clock(seconds) == text
