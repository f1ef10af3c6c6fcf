"""Many videos by a service: by the real one in this process, and by one that is made up and misbehaves."""

import asyncio
import csv
import json
import time
from collections import Counter

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emo_core.serving import client as talk
from emo_core.serving.batch import batch
from emo_core.serving.client import connect
from emo_core.serving.manifest import read_manifest
from emo_core.serving.results import Stopped
from emo_data.errors import UserError
from emo_data.lease import Taken, leased
from emo_data.objects import Folder
from flows import cli
from tests.emo_core.test_service import LIMITS, Here, run, serving

COLUMNS = ["name", "portrait", "audio", "state", "error", "job", "frames", "seconds", "video"]


def write_manifest(path, rows):
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.table({column: [row.get(column) for row in rows] for column in columns}), path)
    return path


def table(out):
    return pq.read_table(out / "results.parquet").to_pylist()


def lines(out):
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


@pytest.fixture
def small(model_folder):
    return {"small": str(model_folder / "model")}


@pytest.fixture
def make_rows(model_folder, tmp_path):
    """Rows of a manifest in a folder of its own, of quick videos that differ in their seed."""

    def make(count, **others):
        folder = tmp_path / "wanted"
        folder.mkdir(exist_ok=True)
        for name in ("portrait.png", "voice.wav"):
            (folder / name).write_bytes((model_folder / name).read_bytes())
        quick = {"portrait": "portrait.png", "audio": str(folder / "voice.wav"), "steps": "1", "guidance": "1"}
        rows = [quick | {"name": f"n{seed}", "seed": str(seed)} | others for seed in range(count)]
        return read_manifest(write_manifest(folder / "wanted.csv", rows))

    return make


def test_every_row_becomes_the_video_that_a_request_of_its_own_becomes(small, make_rows, tmp_path):
    async def work():
        rows, out = make_rows(2, speed="lively"), tmp_path / "out"
        async with serving(tmp_path / "service", small) as (client, _, hands):
            found = await batch(client, rows, out)
            assert found.model_dump() == {
                "done": 2, "failed": 0, "skipped": 0, "results": str(out / "results.parquet"),
            }  # fmt: skip
            for row in rows:
                files = {"portrait": row.portrait.read_bytes(), "audio": row.audio.read_bytes()}
                data = {"steps": "1", "guidance": "1", "seed": str(row.wish.seed), "speed": "lively"}
                direct = await client.post("/v1/videos", files=files, data=data)
                assert (out / f"{row.name}.mp4").read_bytes() == direct.content
            told = table(out)
            assert [list(line) for line in told] == [COLUMNS] * 2
            assert [(line["name"], line["state"], line["error"], line["frames"]) for line in told] == [
                ("n0", "done", None, 50),
                ("n1", "done", None, 50),
            ]
            assert [line["video"] for line in told] == ["n0.mp4", "n1.mp4"]
            assert {line["job"] for line in told} == set(hands.made[:2])
            assert {path.name for path in out.iterdir()} == {
                *("n0.mp4", "n1.mp4", "results.jsonl", "results.parquet", "work")
            }

    run(work())


def test_what_was_interrupted_goes_on_and_makes_nothing_twice(small, make_rows, tmp_path):
    async def work():
        rows, out = make_rows(4), tmp_path / "out"
        limits = LIMITS.model_copy(update={"queue": 4})
        async with serving(tmp_path / "service", small, limits=limits) as (client, _, hands):
            killed = asyncio.create_task(batch(client, rows, out, 3))
            while not (out / "results.jsonl").exists() or not lines(out):
                await asyncio.sleep(0.02)
            killed.cancel()
            await asyncio.wait([killed])
            (known,) = lines(out)
            assert not (out / "results.parquet").exists()
            # Whoever was killed can have been killed in the middle of anything.
            (out / ".123.n2.mp4").write_bytes(b"half")
            with (out / "results.jsonl").open("a") as file:
                file.write('{"name": "n1", "dig')
            found = await batch(client, rows, out)
            assert (found.done, found.failed, found.skipped) == (3, 0, 1)
            assert len(hands.made) == len(set(hands.made)) == 4
            assert {line["job"] for line in table(out)} == set(hands.made)
            assert known in lines(out) and len(lines(out)) == 4 and not (out / ".123.n2.mp4").exists()

            videos = {row.name: (out / f"{row.name}.mp4").read_bytes() for row in rows}
            (out / "n3.mp4").unlink()
            changed = [rows[0], rows[1], make_rows(5)[4], rows[3]]
            found = await batch(client, changed, out)
            assert (found.done, found.failed, found.skipped) == (2, 0, 2)
            assert len(hands.made) == 5, "what is gone here is still there"
            assert [line["name"] for line in table(out)] == ["n0", "n1", "n4", "n3"]
            assert (out / "n3.mp4").read_bytes() == videos["n3"]

            found = await batch(client, make_rows(2, steps="2"), out)
            assert (found.done, len(hands.made)) == (2, 7)
            assert (out / "n0.mp4").read_bytes() != videos["n0"]

    run(work())


def test_a_full_service_is_waited_for(small, make_rows, tmp_path, monkeypatch):
    monkeypatch.setattr("emo_core.serving.service._AFTER", 1)
    monkeypatch.setattr("emo_core.serving.client._PATIENCE", 0.5)  # which is for one that is away

    async def work():
        limits = LIMITS.model_copy(update={"queue": 1})
        async with serving(tmp_path / "service", small, limits=limits) as (client, _, hands):
            seen = Counter()

            async def count(answer):
                seen[answer.status_code] += 1

            client.event_hooks["response"] = [count]
            found = await batch(client, make_rows(4), tmp_path / "out", 3)
            assert (found.done, found.failed) == (4, 0) and len(hands.made) == 4
            assert seen[429] > 0 and seen[202] == 4

    run(work())


def test_a_bad_row_fails_alone_and_is_tried_again_when_it_is_mended(small, make_rows, tmp_path):
    async def work():
        rows, out = make_rows(3), tmp_path / "out"
        good = rows[1].portrait.read_bytes()
        bad = rows[1].portrait.with_name("other.png")
        rows[1] = type(rows[1])(rows[1].name, bad, rows[1].audio, rows[1].wish)
        async with serving(tmp_path / "service", small) as (client, _, hands):
            bad.write_bytes(b"no picture")
            found = await batch(client, rows, out)
            assert (found.done, found.failed, len(hands.made)) == (2, 1, 2)
            _, failed, _ = table(out)
            assert failed["state"] == "failed" and failed["error"].startswith("portrait: cannot be read as a picture")
            assert failed["video"] is None and not (out / "n1.mp4").exists()
            bad.write_bytes(good)
            found = await batch(client, rows, out)
            assert (found.done, found.failed, found.skipped) == (1, 0, 2)
            assert (out / "n1.mp4").read_bytes()[4:8] == b"ftyp"
            bad.write_bytes(b"no picture")
            assert (await batch(client, rows, out)).failed == 1
            assert not (out / "n1.mp4").exists(), "it is not what this row asks for"

    run(work())


def test_a_job_that_failed_is_made_by_another_job(small, make_rows, tmp_path):
    async def work():
        rows, out, jobs = make_rows(1), tmp_path / "out", tmp_path / "service" / "jobs"
        hands = Here(small)
        async with serving(tmp_path / "service", small, hands) as (client, _, _):
            hands.hold.clear()
            first = asyncio.create_task(batch(client, rows, out))
            while not list(jobs.glob("*/video.mp4.unfinished")):
                await asyncio.sleep(0.02)
            (one,) = jobs.iterdir()
            (await client.delete(f"/v1/jobs/{one.name}")).raise_for_status()
            hands.hold.set()
            assert (await first).failed == 1
            assert (await batch(client, rows, out)).done == 1
            assert [line["error"] for line in lines(out)] == ["the job is cancelled", None]
            assert lines(out)[0]["job"] == one.name != lines(out)[1]["job"]

    run(work())


def test_a_service_that_asks_for_a_token_gets_it_or_ends_the_batch(small, make_rows, tmp_path):
    async def work():
        async with serving(tmp_path / "service", small, token="secret") as (client, _, hands):
            with pytest.raises(UserError, match="EMO_TOKEN"):
                await batch(client, make_rows(1), tmp_path / "out")
            assert not (tmp_path / "out").exists() and hands.made == []
            async with connect("http://service", "secret") as shown:
                client.headers["Authorization"] = shown.headers["Authorization"]
            assert (await batch(client, make_rows(1), tmp_path / "out")).done == 1

    run(work())
    with pytest.raises(UserError, match="EMO_TOKEN"):
        connect("http://service", "two words")
    with pytest.raises(UserError, match="--endpoint service:8000"):
        connect("service:8000", None)


class Fake:
    """A service that makes no videos. `first` holds what it does before it begins to behave, by request."""

    def __init__(self):
        self.first, self.asked, self.jobs = {}, [], []

    def __call__(self, request):
        *_, last = path = request.url.path.split("/")
        what = {"models": "models", "video": "video"}.get(last, "submit" if request.method == "POST" else "status")
        self.asked.append(what)
        todo = self.first.get(what)
        if todo:
            answer = todo.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        if what == "models":
            return httpx.Response(200, json=[{"id": "small"}])
        if what == "submit":
            key = request.headers["Idempotency-Key"]
            self.jobs.append(key)
            return httpx.Response(202, json=self.job("queued", f"job-{len(self.jobs)}"))
        if what == "status":
            return httpx.Response(200, json=self.job("done", last))
        return httpx.Response(200, content=f"the video of {path[-2]}", headers={"content-type": "video/mp4"})

    @staticmethod
    def job(state, name="job-1", error=None):
        return {"id": name, "state": state, "frames_done": 0, "frames_total": 7, "progress": 0, "error": error}

    @property
    def http(self):
        return httpx.AsyncClient(transport=httpx.MockTransport(self), base_url="http://fake")


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr("emo_core.serving.client._FIRST_PAUSE", 0.01)
    monkeypatch.setattr("emo_core.serving.batch._FIRST_LOOK", 0.01)
    return Fake()


@pytest.fixture
def plain(tmp_path):
    """A manifest of three rows, two of which are alike, of files that nobody opens."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_text(name)
    (tmp_path / "v.wav").write_text("voice")
    return write_manifest(tmp_path / "m.csv", [{"portrait": f"{name}.png", "audio": "v.wav"} for name in "abb"])


def do(fake, manifest, out, at_a_time=1):
    async def work():
        async with fake.http as client:
            return await batch(client, read_manifest(manifest), out, at_a_time)

    return asyncio.run(work())


def torn():
    async def chunks():
        yield b"the vid"
        raise httpx.ReadError("cut")

    return httpx.Response(200, content=chunks(), headers={"content-type": "video/mp4"})


def test_hiccups_are_waited_out(fake, plain, tmp_path):
    fake.first = {
        "submit": [
            httpx.ConnectError("refused"),
            httpx.Response(503, headers={"Retry-After": "1"}),
            httpx.Response(429, headers={"Retry-After": "Wed, 21 Oct 2037 07:28:00 GMT"}),
        ],
        "status": [httpx.Response(502), httpx.ReadTimeout("late")],
        "video": [torn(), httpx.Response(500)],
    }
    start = time.monotonic()
    assert do(fake, plain, tmp_path / "out").done == 3
    assert 1 <= time.monotonic() - start < 5
    assert Counter(fake.asked) == {"models": 1, "submit": 6, "status": 5, "video": 5}
    assert (tmp_path / "out/00001.mp4").read_text() == "the video of job-1"
    assert len(set(fake.jobs)) == 3, "each row has a key"


def test_a_job_that_the_service_forgot_is_sent_again_with_its_key(fake, plain, tmp_path):
    fake.first = {"status": [httpx.Response(404)], "video": [httpx.Response(404)]}
    assert do(fake, plain, tmp_path / "out").done == 3
    assert len(fake.jobs) == 5 and fake.jobs[0] == fake.jobs[1] == fake.jobs[2]
    assert table(tmp_path / "out")[0]["job"] == "job-3"
    fake.first = {"status": [httpx.Response(404)] * 3}
    assert do(fake, plain, tmp_path / "other").failed == 1
    assert "forgot" in table(tmp_path / "other")[0]["error"]


def test_a_key_is_the_same_until_its_job_has_failed(fake, plain, tmp_path):
    out = tmp_path / "out"
    fake.first = {"status": [httpx.Response(200, json=fake.job("failed", error="it was\n\x1b[31mtoo dark"))]}
    found = do(fake, plain, out)
    assert (found.done, found.failed) == (2, 1)
    assert table(out)[0]["error"] == "it was [31mtoo dark"
    keys = list(fake.jobs)
    do(fake, plain, out)
    assert len(fake.jobs) == 4 and fake.jobs[3] not in keys
    do(fake, plain, tmp_path / "elsewhere")
    assert fake.jobs[4:] == keys


def test_a_request_that_the_service_cannot_bear_is_its_row_s_failure(fake, plain, tmp_path, monkeypatch):
    monkeypatch.setattr("emo_core.serving.client._PATIENCE", 0.1)
    fake.first = {"submit": [httpx.Response(500)] * 5}
    found = do(fake, plain, tmp_path / "out")
    assert (found.done, found.failed) == (2, 1)
    assert "answers 500" in table(tmp_path / "out")[0]["error"]


def test_a_service_that_stays_away_ends_the_batch_which_then_goes_on(fake, plain, tmp_path, monkeypatch):
    monkeypatch.setattr("emo_core.serving.client._PATIENCE", 0.1)
    out, down = tmp_path / "out", [httpx.ConnectError("refused")] * 50
    answer = Fake.__call__

    def breaks_down(self, request):
        if len(self.jobs) == 1 and self.asked[-1] == "video":
            self.first = {name: list(down) for name in ("models", "submit", "status", "video")}
        return answer(self, request)

    monkeypatch.setattr(Fake, "__call__", breaks_down)
    with pytest.raises(Stopped, match=r"--endpoint http://fake.*refused.*what is done is kept"):
        do(fake, plain, out)
    assert [line["name"] for line in lines(out)] == ["00001"] and not (out / "results.parquet").exists()
    monkeypatch.setattr(Fake, "__call__", answer)
    fake.first = {}
    found = do(fake, plain, out)
    assert (found.done, found.skipped, len(fake.jobs)) == (2, 1, 3)


def test_a_token_that_is_no_longer_taken_ends_the_batch(fake, plain, tmp_path):
    fake.first = {"status": [httpx.Response(401)]}
    with pytest.raises(UserError, match="EMO_TOKEN"):
        do(fake, plain, tmp_path / "out", 3)


@pytest.mark.parametrize(
    ("what", "answer", "said"),
    [
        ("submit", httpx.Response(202, json=Fake.job("queued", "../../../etc/passwd")), "something else than a job"),
        ("submit", httpx.Response(200, text="<html>log in</html>"), "something else than a job"),
        ("submit", httpx.Response(302, headers={"Location": "http://elsewhere"}), "answered 302"),
        ("submit", httpx.Response(413, json={"detail": "audio: it has too many bytes"}), "audio: it has too many"),
        ("submit", httpx.Response(422, json={"detail": [{"loc": "x"}]}), "answered 422"),
        ("video", httpx.Response(200, html="<html>log in</html>"), "something else than a video"),
        ("video", httpx.Response(409, json={"detail": "it is running"}), "it is running"),
    ],
)
def test_what_a_service_answers_is_not_believed(fake, plain, tmp_path, what, answer, said):
    fake.first = {what: [answer]}
    found = do(fake, plain, tmp_path / "out")
    assert (found.done, found.failed) == (2, 1)
    assert said in table(tmp_path / "out")[0]["error"]
    assert not (tmp_path / "out/00001.mp4").exists()


def test_a_folder_is_one_batch_s(fake, plain, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/00001.mp4").write_text("years of work")
    with pytest.raises(UserError, match="holds something else"):
        do(fake, plain, tmp_path / "thesis")
    with leased(Folder(str(tmp_path / "out")), "emo batch"), pytest.raises(Taken):
        do(fake, plain, tmp_path / "out")
    assert fake.jobs == [] and [path.name for path in (tmp_path / "thesis").iterdir()] == ["00001.mp4"]
    assert do(fake, plain, tmp_path / "out").done == 3
    (tmp_path / "out/results.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="line 1: is damaged"):
        do(fake, plain, tmp_path / "out")


def test_models_are_looked_up_before_anything_is_sent(fake, plain, tmp_path):
    write_manifest(plain, [{"portrait": "a.png", "audio": "v.wav", "model": model} for model in ("small", "gpt")])
    with pytest.raises(UserError, match=r"1 rows, 00002 is the first, .* gpt; it has small"):
        do(fake, plain, tmp_path / "out")
    assert fake.jobs == []


def test_one_manifest_in_three_formats_says_the_same(plain):
    rows = [
        {"portrait": "a.png", "audio": "v.wav", "name": "7", "seed": None, "speed": None, "steps": None},
        {"portrait": "b.png", "audio": str(plain.parent / "v.wav"), "name": None, "seed": 3, "speed": 0.5, "steps": 20},
    ]
    read = [read_manifest(write_manifest(plain.with_suffix(kind), rows)) for kind in (".csv", ".jsonl", ".parquet")]
    assert read[0] == read[1] == read[2]
    first, second = read[0]
    assert (first.name, second.name) == ("7", "00002")
    assert first.portrait == plain.parent / "a.png" and second.audio == plain.parent / "v.wav"
    assert first.wish.model_dump(exclude_unset=True) == {}
    assert second.wish.model_dump(exclude_unset=True) == {"seed": 3, "speed": "0.5", "steps": 20}
    nan = pa.table(
        {
            "portrait": ["a.png", "b.png"],
            "audio": ["v.wav"] * 2,
            "name": [float("nan"), 7.0],
            "seed": [float("nan"), 3.0],
        }
    )
    pq.write_table(nan, plain.with_suffix(".parquet"))  # as pandas writes what is not there
    assert [(row.name, row.wish.seed) for row in read_manifest(plain.with_suffix(".parquet"))] == [
        ("00001", 0),
        ("7", 3),
    ]


HEAD = "portrait,audio,name,seed,speed\n"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("m.csv", "", "has no rows"),
        ("m.csv", HEAD, "has no rows"),
        ("m.txt", HEAD, "must end in .csv, .jsonl or .parquet"),
        ("m.csv", "portrait,audio,out\na.png,v.wav,x\n", "column out is not known"),
        ("m.csv", "portrait,audio,audio\na.png,v.wav,v.wav\n", "column audio is there twice"),
        ("m.csv", "portrait,audio\na.png,v.wav,x\n", "row 1: has more cells"),
        ("m.csv", 'portrait,audio\n"a.png,v.wav\n', "end of data"),
        ("m.csv", HEAD + "a.png,,,,\n", "row 1: audio: has no file"),
        ("m.csv", HEAD + "a.png,v.wav,x,,\nd.png,v.wav,x,1,\n", "row 2: portrait: there is no file"),
        ("m.csv", HEAD + "a.png,v.wav,x,,\nb.png,v.wav,X,,\n", "row 2: name X: row 1 has it already"),
        ("m.csv", HEAD + "a.png,v.wav,00002,,\nb.png,v.wav,,,\n", "row 2: name 00002: row 1 has it already"),
        ("m.csv", HEAD + "a.png,v.wav,../x,,\n", "name ../x: must be a plain file name"),
        ("m.csv", HEAD + "a.png,v.wav,.x,,\n", "name .x: must be"),
        ("m.csv", HEAD + f"a.png,v.wav,{'é' * 101},,\n", "at most 200 bytes"),
        ("m.csv", HEAD + "a.png,v.wav,,-1,fast\n", "speed: give degrees per frame"),
        ("m.csv", HEAD + "a.png,v.wav,,many,\n" * 9, "9 of 9 rows are wrong: row 1: seed: "),
        ("m.jsonl", '{"portrait": "a.png", "audio": "v.wav"}\n[1]\n', "row 2: is not an object"),
        ("m.jsonl", '{"portrait": "a.png", "audio": "v.wav"\n', "row 1: is no JSON"),
        ("m.jsonl", '{"portrait": "a.png", "audio": "v.wav", "name": "\\ud800"}\n', "must be a plain file name"),
        ("m.jsonl", '{"portrait": "a.png", "audio": "v.wav", "steps": [1]}\n', "steps is neither text nor a number"),
        ("m.parquet", "no parquet", "m.parquet: "),
        ("gone.csv", None, "No such file"),
    ],
)
def test_what_is_wrong_with_a_manifest_is_said_before_anything_is_asked(plain, tmp_path, capfd, name, text, said):
    if text is not None:
        (tmp_path / name).write_text(text)
    words = ["batch", "--endpoint", "http://127.0.0.1:9", "--manifest", str(tmp_path / name)]
    assert cli.run([*words, "--out", str(tmp_path / "out")]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: --manifest {tmp_path / name}") and said in line
    assert not (tmp_path / "out").exists()


def test_all_bad_rows_are_counted_and_the_first_are_told(plain, tmp_path):
    plain.write_text(HEAD + "a.png,v.wav,,x,\n" * 3 + "a.png,v.wav,,,\n" + "z.png,w.wav,,x,\n" * 4)
    with pytest.raises(UserError, match="7 of 8 rows are wrong") as told:
        read_manifest(plain)
    said = str(told.value)
    assert [f"row {number}:" in said for number in range(1, 9)] == [True] * 3 + [False] + [True] * 2 + [False] * 2
    assert all(word in said for word in ("z.png", "w.wav", "seed"))


def test_the_command_says_how_it_went(fake, plain, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(talk, "connect", lambda endpoint, token: fake.http)
    words = ["batch", "--endpoint", "http://fake", "--manifest", str(plain), "--out", str(tmp_path / "out")]
    fake.first = {"submit": [httpx.Response(422, json={"detail": "portrait: no face"})]}
    assert cli.run([*words, "--at-a-time", "1", "--json"]) == 1
    out, err = capfd.readouterr()
    results = str(tmp_path / "out/results.parquet")
    assert json.loads(out) == {"done": 2, "failed": 1, "skipped": 0, "results": results}
    assert "videos: done in" in err
    assert cli.run(words) == 0
    assert capfd.readouterr().out.splitlines() == [f"1 videos in {tmp_path / 'out'}", "2 were done before"]
    monkeypatch.setattr("emo_core.serving.client._PATIENCE", 0.05)
    fake.first = {"submit": [httpx.ConnectError("refused")] * 20, "models": [httpx.Response(200, json=[])]}
    fake.first["models"] += [httpx.ConnectError("refused")]
    assert cli.run([*words[:-1], str(tmp_path / "new")]) == 1
    assert "error: --endpoint http://fake" in capfd.readouterr().err


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "localhost", "http://", "http://[::"])
def test_where_no_service_is_the_command_says_so(plain, tmp_path, capfd, endpoint):
    words = ["batch", "--endpoint", endpoint, "--manifest", str(plain), "--out", str(tmp_path / "out")]
    assert cli.run(words) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: --endpoint {endpoint}") and not (tmp_path / "out").exists()
