"""The road from nothing to a video, at the smallest size, as a user walks it; and what a user can do wrong on it."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from emo_core.checkpoint import load
from emo_data.sound import write_sound
from flows import cli
from flows.demo import DemoSettings, demo
from tests.emo_core.runs import smallest_config

ROOT = Path(__file__).parents[1]
SETTINGS = DemoSettings(clips=2, seconds=2.0, stage_steps=(3, 2, 2), sampling_steps=2)


def smallest(audio_layers: int = 2, audio_width: int = 64):
    """The small model with a handful of channels."""
    return smallest_config(audio_layers, audio_width).model_copy(update={"size": 64, "frames": 12, "motion_frames": 4})


@pytest.fixture(scope="module")
def small():
    """Every model that is begun is the smallest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("emo_core.model.config.tiny", smallest)
        yield


@pytest.fixture(scope="module")
def road(small, tmp_path_factory):
    """(folder, report) of a finished demo."""
    out = tmp_path_factory.mktemp("road") / "a demo"
    return out, demo(out, SETTINGS, torch.device("cpu"))


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def walked(capfd):
    """The steps that were done, not reused."""
    return [
        line.split()[1].rstrip(":")
        for line in capfd.readouterr().err.splitlines()
        if "/8 " in line and "done in" in line
    ]


def test_the_demo_leaves_a_video_of_the_voice(road):
    out, report = road
    with av.open(out / "talking.mp4") as video:
        picture, sound = video.streams.video[0], video.streams.audio[0]
        assert picture.average_rate == 25
        assert sum(1 for _ in video.decode(picture)) == 500
        assert float(sound.duration * sound.time_base) == pytest.approx(20, abs=0.04)
        assert "machine" in video.metadata["comment"]
    assert Image.open(out / "talking.png").size[0] > 64
    assert json.loads((out / "report.json").read_text()) == report
    assert set(report["seconds"]) == {
        "sample",
        "ingest",
        "stage 1",
        "stage 2",
        "stage 3",
        "losses",
        "generate",
        "measure",
    }
    assert 100 < report["peak_mib"] < 4096
    assert report["measures"]["rejected"] != ["too_small"]
    assert {path.name for path in out.iterdir()} == {
        *("sample", "data", "runs", "model"),
        *("latents", "losses.png", "talking.mp4", "talking.json", "talking.png"),
        *("measures.json", "report.json", "steps.json"),
    }


def test_the_demo_again_does_nothing_again(road, capfd):
    out, report = road
    before = files(out)
    assert demo(out, SETTINGS, torch.device("cpu")) == report
    assert walked(capfd) == []
    assert {path for path, time in files(out).items() if before.get(path) != time} == {out / "report.json"}


def test_a_change_is_carried_from_its_step_to_the_end_and_no_further(road, tmp_path, capfd):
    out = tmp_path / "copy"
    shutil.copytree(road[0], out)
    demo(out, SETTINGS.model_copy(update={"speed": "lively"}), torch.device("cpu"))
    assert walked(capfd) == ["generate", "measure"]
    demo(out, SETTINGS.model_copy(update={"stage_steps": (3, 2, 1), "speed": "lively"}), torch.device("cpu"))
    assert walked(capfd) == ["stage", "losses", "generate", "measure"]


def test_an_interrupted_demo_goes_on(road, capfd):
    out, _ = road
    (out / "talking.mp4").unlink()
    shutil.rmtree(out / "runs" / "stage3" / "model")
    steps = json.loads((out / "steps.json").read_text())
    del steps["stage 3"]["seconds"], steps["generate"]
    (out / "steps.json").write_text(json.dumps(steps))
    demo(out, SETTINGS, torch.device("cpu"))
    assert walked(capfd) == ["stage", "generate"]
    assert (out / "talking.mp4").exists()


def test_the_demo_leaves_a_folder_of_other_things_alone(tmp_path, capfd):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert cli.run(["demo", "--out", str(tmp_path)]) == 2
    assert "something other" in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_same_road_by_hand(road, tmp_path, capfd):
    out, _ = road
    run, video = tmp_path / "run", tmp_path / "video.mp4"
    portrait, voice = tmp_path / "portrait.png", tmp_path / "voice.wav"
    shutil.copy(out / "sample/held_out/portrait.png", portrait)
    write_sound(voice, np.random.default_rng(0).uniform(-0.3, 0.3, 15_000))
    train = [
        "train",
        "--stage",
        "1",
        "--data",
        out / "data",
        "--out",
        run,
        "--steps",
        "2",
        "--plot",
        tmp_path / "a.png",
    ]
    generate = ["generate", "--model", out / "model", "--portrait", portrait, "--audio", voice, "--out", video]
    generate += [
        "--steps",
        "1",
        "--speed",
        "0.5",
        "--region",
        "all",
        "--guidance",
        "1",
        "--preview",
        tmp_path / "b.png",
    ]
    for words, result in (
        (train, {"model": str(run / "model"), "metrics": str(run / "metrics.jsonl"), "steps": 2}),
        (generate, {"video": str(video), "frames": 23}),
    ):
        assert cli.run([*map(str, words), "--json"]) == 0
        assert json.loads(capfd.readouterr().out) == result
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2
    assert (tmp_path / "a.png").exists() and (tmp_path / "b.png").exists()


def test_what_would_be_trained_is_shown_and_nothing_is_written(road, tmp_path, capfd):
    out, run = road[0], tmp_path / "run"
    words = ["train", "--stage", "2", "--data", out / "data", "--init", out / "runs/stage1/model", "--out", run]
    assert cli.run([*map(str, words), "--dry-run", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    parts = {part["part"]: part for part in told["parts"]}
    assert {name for name, part in parts.items() if part["trained"]} == {
        "backbone, temporal modules",
        "backbone, audio layers",
        "audio_projection",
    }
    assert all(part["trained"] in (0, part["parameters"]) for part in parts.values())
    assert parts["reference_net"]["source"] == str(out / "runs/stage1/model")
    assert parts["audio_projection"]["source"] == "new, random"
    whole = load(out / "runs/stage2/model").model
    assert sum(part["parameters"] for part in parts.values()) == sum(p.numel() for p in whole.parameters())
    assert told["clips"] == 2 and told["memory"]["peak_gib"] > told["memory"]["weights_gib"] > 0
    assert not run.exists()


def test_a_run_that_is_asked_to_stop_can_go_on(road, tmp_path):
    """What a batch system sends before it kills: the step is finished and kept, and the same command goes on."""
    out, run = road[0], tmp_path / "run"
    words = ["train", "--stage", "1", "--data", out / "data", "--out", run, "--steps", "300"]
    program = (
        "import emo_core.model.config as sizes; from tests.test_whole_road import smallest; sizes.tiny = smallest; "
    )
    command = [sys.executable, "-c", program + "from flows.cli import main; main()", *map(str, words)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    while not list(run.glob("tensorboard/*")):
        time.sleep(0.05)
        assert process.poll() is None
    time.sleep(0.5)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1 and "stopping after this step" in said
    assert re.search(r"^error: .*stopped after step \d+ of 300, which is kept", said, re.MULTILINE)
    assert [path.name for path in (run / "checkpoints").iterdir()] and not (run / "model").exists()
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").open()] == list(range(1, 301))


def test_a_look_into_the_data(road, capfd):
    data = str(road[0] / "data")
    assert cli.run(["data", "info", data, "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert (found["clips"], found["sources"], found["identities"]) == (2, 2, 2)
    assert found["splits"]["train"] == {"clips": 2, "identities": 2}
    assert found["hours"] == pytest.approx(4 / 3600)
    assert cli.run(["data", "speed-buckets", data, "--buckets", "5", "--json"]) == 0
    assert len(json.loads(capfd.readouterr().out)["centres"]) == 5
    assert cli.run(["data", "verify", data]) == 0


def test_damaged_data_is_found(road, tmp_path, capfd):
    shutil.copytree(road[0] / "data", tmp_path / "data")
    damaged = next((tmp_path / "data" / "clips").iterdir())
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    assert cli.run(["data", "verify", str(tmp_path / "data"), "--json"]) == 1
    problems = json.loads(capfd.readouterr().out)["problems"]
    assert len(problems) == 1 and damaged.name in problems[0]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("generate --model NOWHERE", "NOWHERE"),
        ("generate --model STAGE1", "stage 1"),
        ("generate --face 2", "--face 2"),
        ("generate --crop 0,0,1", "--crop 0,0,1"),
        ("generate --crop 0,0,2,1", "--crop 0,0,2,1"),
        ("generate --guided 0.8,0.2", "guided 0.8 to 0.2"),
        ("generate --guided half", "--guided half"),
        ("generate --scheduler fast", "--scheduler"),
        ("generate --portrait WALL.png", "WALL.png: no face"),
        ("generate --portrait text.txt", "text.txt"),
        ("generate --portrait NOWHERE.png", "NOWHERE.png"),
        ("generate --audio silent.wav", "silent.wav"),
        ("generate --audio text.txt", "text.txt"),
        ("generate --out video.avi", "video.avi"),
        ("generate --out NOWHERE/video.mp4", "NOWHERE"),
        ("generate --region 0.5,0.5,0.1,0.1", "--region"),
        ("generate --region NOWHERE.png", "NOWHERE.png"),
        ("generate --speed quick", "--speed quick"),
        ("generate --speed 3", "--speed 3"),
        ("generate --device abacus", "--device abacus"),
        ("generate --preview NOWHERE/sheet.png", "--preview"),
        ("generate --preview sheet.xyz", "--preview"),
        ("train --stage 1 --plot loss.xyz", "--plot"),
        ("train --stage 1 --out text.txt", "text.txt"),
        ("train --stage 1 --weights NOWHERE", "NOWHERE"),
        ("train --stage 1 --weights FULL", "--weights"),
        ("train --stage 3 --init STAGE2 --weights FULL", "--weights"),
        ("train --stage 1 --preset sd15", "unet"),
        ("train --stage 2 --init STAGE1 --preset sd15", "motion"),
        ("train --stage 3 --init STAGE2 --preset sd15", "another size"),
        ("generate --guidance 2 --audio-scale 3", "--guidance"),
        ("generate --guidance nan", "--guidance"),
        ("generate --audio-scale inf", "guidance"),
        ("sample new --seconds inf", "--seconds"),
        ("train --stage 1 --data ODD", "--size 64"),
        ("generate --steps 0", "--steps"),
        ("train --stage 4", "--stage"),
        ("train --stage 2", "--init"),
        ("train --stage 1 --init MODEL", "--init"),
        ("train --stage 2 --init MODEL", "stage"),
        ("train --stage 1 --data NOWHERE", "NOWHERE"),
        ("train --stage 1 --data EMPTY", "EMPTY"),
        ("train --stage 1 --out FULL", "FULL"),
        ("train --stage 1 --plot NOWHERE/loss.png", "--plot"),
        ("train --stage 1 --device abacus", "--device abacus"),
        ("train --stage 1 --workers 5", "1, 2, 3, 4, 6, 12 can"),
        ("train --stage 1 --workers two", "--workers two"),
        ("train --stage 1 --workers 4-2", "--workers 4-2"),
        ("train --stage 1 --workers 0-2", "--workers 0-2"),
        ("train --stage 1 --address auto --workers 0", "--workers 0"),
        ("train --stage 1 --address 127.0.0.1:1 --workers 2", "--address 127.0.0.1:1"),
        ("train --stage 1 --micro-batch 0", "--micro-batch"),
        ("train --stage 1 --keep blur", "--keep 'blur'"),
        ("train --stage 1 --keep frames>999999", "frames>999999 leaves 0 of 2"),
        ("train --stage 2 --init STAGE1 --data STRANGE", "schema version 99"),
        ("ingest NOWHERE --out new", "NOWHERE"),
        ("ingest FULL --out new", "FULL"),
        ("ingest SAMPLE --out FULL --audio-model tiny", "FULL"),
        ("ingest SAMPLE --out DATA --size 128 --audio-model tiny", "was made with"),
        ("ingest SAMPLE --out new --fps -1", "--fps"),
        ("ingest SAMPLE --out new --audio-model tiny --address 127.0.0.1:1", "--address 127.0.0.1:1"),
        ("ingest SAMPLE --out new --audio-model tiny --address http://127.0.0.1:1", "--address http"),
        ("ingest SAMPLE --out new --workers 0 --address auto", "--workers 0"),
        ("data report DATA --out nowhere/page.html", "nowhere/page.html"),
        ("ingest SAMPLE --out new --min-seconds 20", "min_seconds 20"),
        ("ingest SAMPLE --out new --audio-layers first", "--audio-layers first"),
        ("ingest SAMPLE --out new --audio-layers 99 --audio-model tiny", "99"),
        ("ingest SAMPLE --out new --audio-model FULL", "FULL"),
        ("ingest SAMPLE --out new --identity-pattern [", "--identity-pattern"),
        ("data info NOWHERE", "NOWHERE"),
        ("data verify FULL", "FULL"),
        ("data speed-buckets EMPTY", "EMPTY"),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_leaves_nothing(road, words, named, capfd, tmp_path, monkeypatch):
    out, _ = road
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("no picture, no sound")
    (tmp_path / "FULL").mkdir()
    (tmp_path / "FULL" / "text.txt").write_text("something of the user's")
    (tmp_path / "EMPTY").mkdir()
    shutil.copy(out / "data" / "dataset.json", tmp_path / "EMPTY")
    Image.new("RGB", (96, 96), "grey").save(tmp_path / "WALL.png")
    shutil.copytree(out / "data", tmp_path / "ODD")
    form = json.loads((tmp_path / "ODD" / "dataset.json").read_text())
    form["config"]["size"] = 100
    (tmp_path / "ODD" / "dataset.json").write_text(json.dumps(form))
    shutil.copytree(out / "data", tmp_path / "STRANGE")
    form = json.loads((tmp_path / "STRANGE" / "dataset.json").read_text())
    (tmp_path / "STRANGE" / "dataset.json").write_text(json.dumps(form | {"schema_version": 99}))
    write_sound(tmp_path / "silent.wav", np.array([], np.float32))
    places = {"MODEL": "model", "DATA": "data", "SAMPLE": "sample/clips", "STAGE1": "runs/stage1/model"}
    places["STAGE2"] = "runs/stage2/model"
    given = [str(out / places[word]) if word in places else word for word in words.split()]
    held_out = out / "sample" / "held_out"
    defaults = {
        "generate": {
            "--model": out / "model",
            "--portrait": held_out / "portrait.png",
            "--audio": held_out / "voice.wav",
            "--out": "video.mp4",
            "--steps": 1,
        },
        "train": {"--data": out / "data", "--out": "run", "--steps": 1},
    }
    for option, value in defaults.get(given[0], {}).items():
        given += [] if option in given else [option, str(value)]
    before = {**files(tmp_path), **files(out)}
    code = cli.run(given)
    shown = capfd.readouterr()
    errors = [line for line in shown.err.splitlines() if line.startswith("error: ")]
    assert (code, shown.out, len(errors)) == (2, "", 1)
    assert named in errors[0]
    assert {**files(tmp_path), **files(out)} == before
