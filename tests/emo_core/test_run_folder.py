"""What a run keeps, and what it says where it cannot: in a store, on a full disk, beside another process."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import s3fs

from emo_core.training.loop import Notice, StoppedError
from emo_core.training.plan import plan
from emo_core.training.run import carry_out
from emo_core.training.run_folder import RunCard, RunFolder
from emo_data.errors import UserError
from emo_data.objects import Folder
from tests.emo_core.runs import CPU, finished, losses, names, prepare, recipe, same_weights
from tests.s3 import Faults, fault_proxy, s3_environment, s3_server

pytestmark = pytest.mark.usefixtures("smallest")


@pytest.fixture
def folder(data, tmp_path) -> RunFolder:
    return plan(recipe(1), data, tmp_path / "run").run


def write(text: str):
    return {"state": lambda path: path.write_text(text)}


def read(run: RunFolder, step: int) -> str:
    found = []
    run.read(step, "state", lambda path: found.append(path.read_text()))
    return found[0]


def test_the_newest_two_checkpoints_are_kept_and_only_whole_ones_count(folder):
    folder.claim()
    for step in (2, 4, 10):
        folder.save(step, write(str(step)))
    assert folder.checkpoints() == [4, 10] and folder.newest() == 10 and read(folder, 10) == "10"
    kept = Path(folder.url) / "checkpoints"
    (kept / "10" / "state").write_text("1")  # shorter than the marker says
    (kept / "12").mkdir()
    (kept / "12" / "state").write_text("12")  # its marker was never written
    (kept / ".unfinished-x").mkdir()
    assert folder.checkpoints() == [4]
    folder.claim()
    assert [path.name for path in kept.iterdir()] == ["4"]


def test_a_checkpoint_that_is_there_is_not_written_again(folder):
    folder.claim()
    folder.save(3, write("first"))
    folder.save(3, write("second"))
    assert read(folder, 3) == "first"


def test_a_run_in_a_store_and_its_model_there(data, tmp_path):
    """Data, runs, latents and the model of the stage before in a store that fails now and then; the same losses."""
    first = finished(1, data, tmp_path / "first", ema_decay=0.9)
    finished(2, data, tmp_path / "second", first)
    faults = Faults()
    with s3_server() as endpoint, fault_proxy(endpoint, faults) as proxy, s3_environment(proxy):
        s3fs.S3FileSystem().mkdir("s3://team")
        store = Folder("s3://team/data")
        for path in Path(data).rglob("*"):
            if path.is_file():
                store.write(str(path.relative_to(data)), path.read_bytes())
        faults.share = 0.1
        carry_out(plan(recipe(1, ema_decay=0.9), "s3://team/data", "s3://team/first"), CPU)
        stopping = iter([Notice.NONE] * 3 + [Notice.STOP])
        second = plan(recipe(2), "s3://team/data", "s3://team/second", "s3://team/first/model")
        with pytest.raises(StoppedError):
            carry_out(second, CPU, notice=lambda: next(stopping))
        assert second.run.checkpoints() == [3, 4]
        carry_out(second, CPU)
        faults.share = 0.0
        assert losses("s3://team/second") == losses(tmp_path / "second")
        assert same_weights("s3://team/second/model", tmp_path / "second" / "model")
        assert [name for name in names("s3://team/second") if name.startswith(("checkpoints", "work"))] == []
        assert sum(faults.happened.values()) > 5


def test_a_store_that_is_away_is_said(data, monkeypatch):
    monkeypatch.setattr("emo_data.objects._TRIES", 2)
    with (
        s3_environment("http://127.0.0.1:9"),
        pytest.raises(UserError, match=r"--out s3://team/run: cannot be reached"),
    ):
        plan(recipe(1), data, "s3://team/run")


FULL = """
import resource, sys
from emo_core.model import config
from tests.emo_core.runs import recipe, smallest_config
config.tiny = smallest_config
import torch
from emo_core.training.plan import plan
from emo_core.training.run import carry_out
planned = plan(recipe(1, checkpoint_every=2), sys.argv[1], sys.argv[2])
def on_step(done, total, note):
    if done == 3:  # from now on no file can have more than so many bytes
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
carry_out(planned, torch.device("cpu"), on_step=on_step)
"""


def test_a_full_disk_is_said_and_what_is_whole_stays(data, tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "-c", FULL, data, str(run)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode and "UserError" in done.stderr
    said = done.stderr.splitlines()[-1]
    assert "the checkpoint of step 4 cannot be written" in said and "the checkpoint of step 2 is whole" in said, said
    finished(1, data, run, checkpoint_every=2)
    finished(1, data, tmp_path / "whole", checkpoint_every=2)
    assert losses(run) == losses(tmp_path / "whole") and names(run) == names(tmp_path / "whole")


def test_two_processes_do_not_train_one_run(data, tmp_path):
    planned = plan(recipe(1, steps=200), data, tmp_path / "run")
    began, over = threading.Event(), threading.Event()

    def on_step(*_: object) -> None:
        began.set()

    def first() -> None:
        with pytest.raises(StoppedError):
            carry_out(planned, CPU, on_step=on_step, notice=lambda: Notice.STOP if over.is_set() else Notice.NONE)

    thread = threading.Thread(target=first)
    thread.start()
    assert began.wait(60)
    with pytest.raises(UserError, match="another training is writing it"):
        carry_out(planned, CPU)
    over.set()
    thread.join()


def test_what_does_not_decide_the_result_may_change(data, tmp_path):
    prepare(recipe(1), data, tmp_path / "run", None, CPU)
    prepare(recipe(1, checkpoint_every=1, preview_every=2, micro_batch=1), data, tmp_path / "run", None, CPU)
    with pytest.raises(UserError, match=r"its recipe.learning_rate is 0.004, not 0.1"):
        prepare(recipe(1, learning_rate=0.1), data, tmp_path / "run", None, CPU)


def test_a_run_of_another_version_is_said(data, tmp_path):
    prepare(recipe(1), data, tmp_path / "run", None, CPU)
    path = tmp_path / "run" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"something": 1}))
    with pytest.raises(UserError, match=r"run.json is of another version"):
        prepare(recipe(1), data, tmp_path / "run", None, CPU)
    with pytest.raises(ValueError, match="something"):
        RunCard.model_validate_json(path.read_text())
