import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flows import cli

HEAVY = ("torch", "ray", "prefect", "mediapipe", "transformers", "diffusers", "av", "pyarrow", "scipy", "cv2")


def emo(capfd, *words):
    """(exit code, lines on stdout, lines on stderr) of one command line."""
    code = cli.run([str(word) for word in words])
    out, err = capfd.readouterr()
    return code, out.splitlines(), err.splitlines()


def test_help_lists_every_command(capfd):
    code, out, _ = emo(capfd, "--help")
    listed = {found[1] for line in out if (found := re.match(r"│ ([a-z]+) ", line))}
    assert code == 0
    assert listed == {
        *("doctor", "sample", "ingest", "data", "train", "generate"),
        *("serve", "batch", "evaluate", "flows", "weights", "bench", "demo", "proof"),
    }


def test_help_loads_nothing_heavy():
    """Which is what lets it answer at once."""
    script = f"import sys; from flows.cli import run; run(['--help']); print([m for m in {HEAVY} if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--bogus"], "--bogus"),
        (["smaple"], "smaple"),
        (["sample"], "DIR"),
        (["sample", "NEW", "--clip", "2"], "--clip"),
        (["sample", "NEW", "--clips", "two"], "--clips"),
        (["sample", "NEW", "--clips", "0"], "--clips"),
        (["sample", "NEW", "--seconds", "0.1"], "--seconds"),
        (["sample", "FILE"], "FILE"),
        (["sample", "FULL"], "FULL"),
        (["evaluate", "--steps", "5", "--clips", "3"], "--clips, --steps: only with --model"),
        (["evaluate", "--model", "M", "--metrics", "fid"], "--metrics: only without --model"),
        (["evaluate", "--model", "M", "--gallery", "NEW", "--clips", "3"], "--clips: only with --ablation"),
        (["evaluate", "--model", "M", "--ablation", "speed", "--song", "FILE"], "--song: only with --gallery"),
        (["evaluate", "--model", "M", "--gallery", "NEW", "--without-speed", "M"], "only with --ablation speed"),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_leaves_nothing(words, named, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("FILE").write_text("a file")
    Path("FULL").mkdir()
    Path("FULL/other").write_text("something of the user's")
    before = sorted(tmp_path.rglob("*"))
    code, out, err = emo(capfd, *words)
    assert (code, out, len(err)) == (2, [], 1)
    assert err[0].startswith("error: ") and named in err[0]
    assert sorted(tmp_path.rglob("*")) == before


def test_debug_shows_where_bad_input_was_found(tmp_path):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(cli.UserError):
        cli.run(["sample", str(tmp_path / "file"), "--debug"])


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch, tmp_path):
    monkeypatch.setattr("emo_data.synthetic.write_sample", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.run(["sample", str(tmp_path / "new")])


def test_json_is_one_object_on_stdout(capfd):
    code, out, _ = emo(capfd, "doctor", "--json")
    assert code == 0 and len(out) == 1
    found = json.loads(out[0])
    assert set(found["checks"].values()) == {"ok"}
    assert None not in found["packages"].values()


def test_doctor_fails_where_something_does_not_work(capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", None)  # what Python leaves of a package that cannot be imported
    code, out, _ = emo(capfd, "doctor")
    assert code == 1
    assert any(line.startswith("decode video: ") and "decord" in line for line in out)


def test_sample_then_the_same_again_is_left_alone(capfd, tmp_path):
    folder = tmp_path / "a sample"
    code, out, _ = emo(capfd, "sample", folder, "--clips", "1", "--seconds", "1", "--json")
    assert code == 0
    assert json.loads(out[-1])["folder"] == str(folder)
    made = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert emo(capfd, "sample", folder, "--clips", "1", "--seconds", "1")[0] == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == made
